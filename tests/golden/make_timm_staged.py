"""Writes convnext.npz, swin.npz and metaformer.npz beside this file: what timm's models, made small, answer to a seeded image.

    python tests/golden/make_timm_staged.py --poolformer DIR      (torch and timm; DIR is a checkout of sail-sg/poolformer, for its hybrids)

Made with timm 1.0.31 and torch 2.14.1. Weights are `reference_weights.fill`'s, by timm's names; the image is `image(size)` below, so a case keeps
`size`, `logits`, and some equally distant channels of each stage's map (NHWC), the form that tests/models/convnet_golden.py reads.
"""

import argparse
import functools
import pathlib
import re
import sys
import types
import zlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent


def fill(name, shape):
    """As tests/reference_weights.py has it for torch layouts; repeated because that module imports jax."""
    z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) >= 2:
        return z / np.sqrt(np.prod(shape[1:]))
    if len(shape) == 1:
        if name.endswith("var"):
            return 1 + 0.1 * np.abs(z)
        return 1 + 0.1 * z if name.endswith(("weight", "scale", "gamma")) else 0.1 * z
    return 1 + 0.1 * z


def image(shape):
    return np.random.RandomState(0).standard_normal(shape).astype(np.float32)


SMALL = {"num_classes": 10, "depths": (1, 1, 2, 1)}
DIMS = {**SMALL, "dims": (16, 32, 48, 64)}
HEADS = {**SMALL, "dims": (32, 64, 96, 128)}
WINDOWS = {"num_classes": 10, "embed_dim": 16, "depths": (2, 2, 2, 1), "num_heads": (1, 2, 4, 8)}
CASES = {
    "convnext": {
        "tiny": ("convnext_tiny", DIMS, (64, 96)),
        "atto": ("convnext_atto", DIMS, (72, 56)),
        "atto_ols": ("convnext_atto_ols", DIMS, (71, 45)),
        "tiny_hnf": ("convnext_tiny_hnf", DIMS, (40, 33)),
        "large_mlp": ("convnext_large_mlp", {**DIMS, "head_hidden_size": 24}, (32, 64)),
        "v2_atto": ("convnextv2_atto", DIMS, (72, 56)),
        "v2_tiny": ("convnextv2_tiny", DIMS, (64, 40)),
    },
    "swin": {
        "window7": ("swin_tiny_patch4_window7_224", {**WINDOWS, "img_size": (112, 84)}, (112, 84)),
        "window3": ("swin_tiny_patch4_window7_224", {**WINDOWS, "img_size": 96, "window_size": 3}, (96, 96)),
        "s3": ("swin_s3_tiny_224", {**WINDOWS, "img_size": (64, 72), "window_size": (3, 5, 4, 2)}, (64, 72)),
        "another_size": ("swin_tiny_patch4_window7_224", {**WINDOWS, "img_size": 64, "window_size": 3, "strict_img_size": False}, (72, 56)),
    },
    "metaformer": {
        "poolformer": ("poolformer_s12", DIMS, (72, 56)),
        "poolformerv2": ("poolformerv2_s12", DIMS, (64, 96)),
        "convformer": ("convformer_s18", DIMS, (61, 45)),
        "caformer": ("caformer_s18", HEADS, (72, 56)),
    },
}


def run(torch, model, shape, rename=lambda name: name):
    state = {name: torch.from_numpy(np.asarray(fill(rename(name), tuple(value.shape)), np.float32)) for name, value in model.named_parameters()}
    model.load_state_dict(state, strict=False)
    return model.eval(), torch.from_numpy(image((2, *shape, 3)).transpose(0, 3, 1, 2).copy())


def kept(shape, logits, maps):
    arrays = {"size": np.array(shape), "logits": logits.numpy()}
    for i, x in enumerate(maps):
        x = x.numpy().transpose(0, 2, 3, 1)
        channels = min(x.shape[-1], max(1, round(600 / x[..., 0].size)))
        arrays[f"stage{i}"] = x[..., :: x.shape[-1] // channels][..., :channels].astype(np.float32)
    return arrays


def write(family, cases):
    arrays = {f"{case}/{key}": value for case, outputs in cases.items() for key, value in outputs.items()}
    np.savez_compressed(HERE / f"{family}.npz", **arrays)
    print(family, (HERE / f"{family}.npz").stat().st_size, "bytes; largest logits", [round(float(abs(o["logits"]).max()), 2) for o in cases.values()])


def timm_cases(family):
    import timm
    import torch
    from timm.models import metaformer

    outputs = {}
    for case, (name, settings, shape) in CASES[family].items():
        if family == "metaformer":
            # Its entry points refuse what they set themselves.
            metaformer._create_metaformer = lambda variant, pretrained, **fields: metaformer.MetaFormer(**{**fields, **settings})
            model = getattr(metaformer, name)()
        else:
            model = timm.create_model(name, **settings)
        model, x = run(torch, model, shape)
        with torch.no_grad():
            outputs[case] = kept(shape, model(x), model.forward_intermediates(x, intermediates_only=True))
    return outputs


def official_name(key, places):
    """A name of sail-sg/poolformer as timm calls it; `places`: stage -> its place in the list `network`."""
    if key.startswith("patch_embed.proj"):
        return key.replace("patch_embed.proj", "stem.conv")
    if key.startswith("head."):
        return key.replace("head.", "head.fc.")
    if key.startswith("norm."):
        return f"head.{key}"
    _, place, rest = key.split(".", 2)
    if rest.startswith("proj"):
        stage = min(stage for stage, at in places.items() if at > int(place))
        return f"stages.{stage}.downsample.{rest.replace('proj', 'conv')}"
    if rest.startswith("pos_embed"):
        return f"stages.{min(stage for stage, at in places.items() if at > int(place))}.{rest}"
    stage = next(stage for stage, at in places.items() if at == int(place))
    return f"stages.{stage}.blocks." + re.sub(r"layer_scale_(\d)", r"layer_scale\1.scale", rest)


def official_cases(checkout):
    """The official classes: norm before the mean, and hybrids with attention or a spatial layer in the last stages."""
    import timm.layers
    import timm.models
    import torch

    # The checkout was written for timm 0.4, which had its layers and its registry elsewhere.
    registry = types.ModuleType("timm.models.registry")
    registry.register_model = lambda function: function
    helpers = types.ModuleType("timm.models.layers.helpers")
    helpers.to_2tuple = timm.layers.to_2tuple
    sys.modules.update({"timm.models.registry": registry, "timm.models.layers": timm.layers, "timm.models.layers.helpers": helpers})
    sys.path.insert(0, str(checkout))
    from models import metaformer, poolformer

    pool, attention, spatial = metaformer.Pooling, metaformer.Attention, metaformer.SpatialFc
    shape, third, fourth = (64, 96), [4, 6], [2, 3]
    hybrids = {
        "official": ((pool,) * 4, (None,) * 4, poolformer.GroupNorm),
        "identity": ((torch.nn.Identity,) * 4, (None,) * 4, poolformer.GroupNorm),
        "pppa": ((pool, pool, pool, attention), (None, None, None, fourth), poolformer.LayerNormChannel),
        "ppaa": ((pool, pool, attention, attention), (None, None, third, None), poolformer.LayerNormChannel),
        "ppff": (
            (pool, pool, functools.partial(spatial, spatial_shape=third), functools.partial(spatial, spatial_shape=fourth)),
            (None,) * 4,
            poolformer.GroupNorm,
        ),
    }
    outputs = {}
    for case, (mixers, positions, norm) in hybrids.items():
        # nn.Identity takes any arguments, so it serves as a mixer; position maps take a place of their own in the list.
        model = metaformer.MetaFormer(
            list(SMALL["depths"]),
            embed_dims=list(HEADS["dims"]),
            token_mixers=list(mixers),
            mlp_ratios=[4] * 4,
            norm_layer=norm,
            downsamples=[True] * 4,
            num_classes=10,
            add_pos_embs=[size and functools.partial(metaformer.AddPositionEmb, spatial_shape=size) for size in positions],
        )
        at, places = 0, {}
        for stage in range(4):
            at += positions[stage] is not None
            places[stage], at = at, at + 2
        model, x = run(torch, model, shape, lambda key: official_name(key, places))
        maps, y = [], None
        with torch.no_grad():
            y = model.patch_embed(x)
            for i, layer in enumerate(model.network):
                y = layer(y)
                if i in places.values():
                    maps.append(y)
            outputs[case] = kept(shape, model(x), maps)
    return outputs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--poolformer", type=pathlib.Path, required=True)
    poolformer = parser.parse_args().poolformer
    write("convnext", timm_cases("convnext"))
    write("swin", timm_cases("swin"))
    write("metaformer", {**timm_cases("metaformer"), **official_cases(poolformer)})
