"""Every published variant of every family has exactly the published number of parameters; shapes alone are traced, nothing is computed."""

import pytest

from jaxvision.errors import ModelError
from jaxvision.models.registry import count_parameters, create_model, list_models, variant_of


def scanned(name):
    """Blocks traced once where the family can scan over them: the same parameters under stacked names, in a fraction of the time."""
    fields = getattr(variant_of(name).module, "__dataclass_fields__", {})
    return {"scan": True} if "scan" in fields else {}


def test_every_variant_has_the_published_number_of_parameters():
    published = {name: variant_of(name).parameters for name in list_models() if variant_of(name).parameters is not None}
    counted = {name: count_parameters(name, num_classes=variant_of(name).classes, **scanned(name)) for name in published}
    wrong = {name: (counted[name], published[name]) for name in published if counted[name] != published[name]}
    assert not wrong, f"(counted, published): {wrong}"
    assert len(published) >= 50


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mixer_s32_224"])
def test_counting_scanned_blocks_is_counting_blocks(name):
    assert count_parameters(name, scan=True) == count_parameters(name) == variant_of(name).parameters


def test_names_are_listed_by_pattern_and_tags_are_not_part_of_them():
    assert list_models("deit_*_distilled_*_384") == ["deit_base_distilled_patch16_384"]
    assert variant_of("vit_base_patch16_224.sam_in1k") is variant_of("vit_base_patch16_224")
    assert create_model("vit_tiny_patch16_224.augreg_in21k", num_classes=3).num_classes == 3


def test_an_unknown_name_or_field_names_its_neighbours():
    with pytest.raises(ModelError, match="'vit_small_patch16_224'"):
        create_model("vit_smal_patch16_224")
    with pytest.raises(ModelError, match=r"model\.drop_pth is not a field of mixer_s32_224; did you mean 'drop_path'"):
        create_model("mixer_s32_224", drop_pth=0.1)
