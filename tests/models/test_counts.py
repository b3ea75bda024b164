"""Every published variant of every family has exactly the published number of parameters; shapes alone are traced, nothing is computed."""

import pytest

from jaxvision.errors import ModelError
from jaxvision.models.registry import count_parameters, create_model, list_models, variant_of
from tests.models.counting import parameter_sizes


def test_every_variant_has_the_published_number_of_parameters():
    memory, wrong = {}, {}
    published = {name: variant_of(name) for name in list_models() if variant_of(name).parameters is not None}
    for name, variant in published.items():
        model = create_model(name, num_classes=variant.classes)
        counted = sum(parameter_sizes(model, (1, *model.image_size, len(variant.mean)), memory).values())
        if counted != variant.parameters:
            wrong[name] = (counted, variant.parameters)
    assert not wrong, f"(counted, published): {wrong}"
    assert len(published) >= 200


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224", "deit3_small_patch16_224", "mixer_s32_224", "resnet50", "swin_tiny_patch4_window7_224", "convnextv2_tiny",
        "caformer_s18",
    ],
)  # fmt: skip
def test_the_quick_count_is_count_parameters(name):
    model = create_model(name)
    assert sum(parameter_sizes(model, (1, *model.image_size, 3), {}).values()) == count_parameters(name)


def test_scanned_blocks_are_the_same_parameters():
    assert count_parameters("vit_tiny_patch16_224", scan=True) == 5_717_416


def test_names_are_listed_by_pattern_and_tags_are_not_part_of_them():
    assert list_models("deit_*_distilled_*_384") == ["deit_base_distilled_patch16_384"]
    assert variant_of("vit_base_patch16_224.sam_in1k") is variant_of("vit_base_patch16_224")
    assert create_model("vit_tiny_patch16_224.augreg_in21k", num_classes=3).num_classes == 3


def test_an_unknown_name_or_field_names_its_neighbours():
    with pytest.raises(ModelError, match="'vit_small_patch16_224'"):
        create_model("vit_smal_patch16_224")
    with pytest.raises(ModelError, match=r"model\.drop_pth is not a field of mixer_s32_224; did you mean 'drop_path'"):
        create_model("mixer_s32_224", drop_pth=0.1)
