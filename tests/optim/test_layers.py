import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ConfigError
from jaxvision.optim import layer_of
from jaxvision.optim.layers import layer_shares

VIT = ("cls_token", "pos_embed", "patch_embed/proj/kernel", *(f"blocks_{i}/mlp/fc1/kernel" for i in range(12)), "norm/scale", "head/kernel")
STAGED = (
    "stem_0/kernel",
    *(f"stages_{i}/blocks_{j}/kernel" for i, depth in enumerate((3, 3, 11)) for j in range(depth)),
    "stages_1/downsample_1/kernel",
    "head/norm/scale",
)
RESNET = ("conv1/kernel", "bn1/scale", "layer1_0/conv1/kernel", "layer1_1/bn1/scale", "layer2_0/downsample_0/kernel", "layer2_0/fc/k", "fc/kernel")
REGNET = ("stem/conv/kernel", "s1_b1/conv1/kernel", "s2_b1/conv1/kernel", "s2_b2/conv1/kernel", "head/fc/kernel")
EFFICIENTNET = ("conv_stem/kernel", "blocks_0_0/kernel", "blocks_1_0/kernel", "blocks_1_1/kernel", "conv_head/kernel")


def layers(names):
    return {name: layer_of(name, names) for name in names}


def test_a_vit_has_embeddings_blocks_and_a_last_layer():
    found = layers(VIT)
    assert [found[name] for name in VIT[:3]] == [0, 0, 0]
    assert [found[name] for name in VIT[3:15]] == list(range(1, 13))
    assert [found[name] for name in VIT[15:]] == [13, 13]


def test_blocks_of_stages_are_counted_through_and_a_downsampling_goes_with_the_block_behind_it():
    found = layers(STAGED)
    assert [found[name] for name in STAGED[:-2]] == list(range(18))
    assert found["stages_1/downsample_1/kernel"] == found["stages_1/blocks_0/kernel"] == 4
    assert found["head/norm/scale"] == 18


def test_resnets_regnets_and_efficientnets_are_numbered_by_their_own_names():
    assert list(layers(RESNET).values()) == [0, 0, 1, 2, 3, 3, 4]
    assert list(layers(REGNET).values()) == list(layers(EFFICIENTNET).values()) == [0, 1, 2, 3, 4]


def test_a_backbone_inside_something_is_numbered_alike_and_its_decoder_is_last():
    found = layers((*(f"backbone/{name}" for name in VIT[:-2]), "decoder/blocks_0/kernel", "mask_head/kernel"))
    assert found["backbone/pos_embed"] == 0 and found["backbone/blocks_11/mlp/fc1/kernel"] == 12
    assert found["decoder/blocks_0/kernel"] == found["mask_head/kernel"] == 13


def test_shares_of_stacked_blocks_are_those_of_the_same_blocks_apart():
    ends = {"patch_embed": {"kernel": jnp.ones((2, 2))}, "head": {"kernel": jnp.ones((2, 2))}}
    apart = layer_shares({**ends, **{f"blocks_{i}": {"kernel": jnp.ones((5, 2))} for i in range(3)}}, 0.5)
    stacked = layer_shares({**ends, "blocks": {"kernel": jnp.ones((3, 5, 2))}}, 0.5)
    assert apart["patch_embed"]["kernel"] == stacked["patch_embed"]["kernel"] == 0.0625
    assert apart["head"]["kernel"] == stacked["head"]["kernel"] == 1.0
    np.testing.assert_array_equal(stacked["blocks"]["kernel"][:, 0, 0], [apart[f"blocks_{i}"]["kernel"] for i in range(3)])


def test_a_network_without_blocks_is_an_error():
    with pytest.raises(ConfigError, match="no parameter is named like a block"):
        layer_of("fc1/kernel", ("fc1/kernel", "fc2/kernel"))
