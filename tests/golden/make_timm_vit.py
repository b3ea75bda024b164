"""Writes vit.npz and mlp_mixer.npz (from timm) and torch_zip.pth (from torch) beside itself: python tests/golden/make_timm_vit.py.

Needs torch and timm, nothing of this library. Weights are not stored: they follow from the names in the state dict (`fill`, the same rule as in
tests/reference_weights.py), the input from a seed. Kept are the logits and the first eight channels of the maps after every block.
`python tests/golden/make_timm_vit.py --load FILE NAME FIELDS SIZE` loads a safetensors file written by `save_pretrained` into timm's model NAME,
strictly, and prints the logits: FIELDS and SIZE are JSON, '{"num_classes": 10, "depth": 2, "img_size": [48, 80]}' and '[48, 80]'. It was used to
see that timm reads the files back: ViT, distilled DeiT, Mixer and ResNet agreed to 2e-6.
"""

import collections
import json
import pathlib
import sys
import tempfile
import zlib

import numpy as np
import timm
import torch

HERE = pathlib.Path(__file__).parent
SIZE = (48, 80)


def fill(name, shape, last_axis_is_output=False):
    z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    if len(shape) >= 2:
        return z / np.sqrt(np.prod(shape[:-1] if last_axis_is_output else shape[1:]))
    if len(shape) == 1:
        return 1 + 0.1 * np.abs(z) if name.endswith("var") else 1 + 0.1 * z if name.endswith(("weight", "scale", "gamma")) else 0.1 * z
    return 1 + 0.1 * z


def image(size):
    return np.random.RandomState(0).standard_normal((2, *size, 3)).astype(np.float32)


def outputs(model, size, stages=True):
    x = torch.from_numpy(image(size)).permute(0, 3, 1, 2)
    kept = {"logits": model(x).numpy()}
    if stages:
        maps = model.forward_intermediates(x, intermediates_only=True, output_fmt="NCHW")
        kept |= {f"stage{i}": stage.permute(0, 2, 3, 1)[..., :8].numpy() for i, stage in enumerate(maps)}
    return kept


def filled(name, size, stages=True, blocks=None, **fields):
    model = timm.create_model(name, num_classes=10, img_size=size, **fields).eval()
    if blocks:
        model.blocks = model.blocks[:blocks]
    with torch.no_grad():
        for key, parameter in model.state_dict().items():
            parameter.copy_(torch.from_numpy(np.asarray(fill(key, parameter.shape))))
        return outputs(model, size, stages)


def vit_npz_shapes(dim, heads, depth, patch, tokens, classes):
    """Names and shapes of a ViT of the first JAX releases."""
    shapes = {
        "cls": (1, 1, dim), "embedding/kernel": (patch, patch, 3, dim), "embedding/bias": (dim,),
        "head/kernel": (dim, classes), "head/bias": (classes,), "Transformer/posembed_input/pos_embedding": (1, tokens, dim),
        "Transformer/encoder_norm/scale": (dim,), "Transformer/encoder_norm/bias": (dim,),
    }  # fmt: skip
    for i in range(depth):
        block, attention = f"Transformer/encoderblock_{i}", f"Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{block}/{norm}/scale": (dim,), f"{block}/{norm}/bias": (dim,)}
        for name in ("query", "key", "value"):
            shapes |= {f"{attention}/{name}/kernel": (dim, heads, dim // heads), f"{attention}/{name}/bias": (heads, dim // heads)}
        shapes |= {f"{attention}/out/kernel": (heads, dim // heads, dim), f"{attention}/out/bias": (dim,)}
        shapes |= {f"{block}/MlpBlock_3/Dense_0/kernel": (dim, 4 * dim), f"{block}/MlpBlock_3/Dense_0/bias": (4 * dim,)}
        shapes |= {f"{block}/MlpBlock_3/Dense_1/kernel": (4 * dim, dim), f"{block}/MlpBlock_3/Dense_1/bias": (dim,)}
    return shapes


def from_npz(size):
    """What timm makes of an npz of the first JAX releases, filled by its own names."""
    shapes = vit_npz_shapes(192, 3, 2, 16, 1 + (size[0] // 16) * (size[1] // 16), 10)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=size, depth=2).eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = pathlib.Path(folder) / "vit.npz"
        np.savez(path, **{name: fill(name, shape, True).astype(np.float32) for name, shape in shapes.items()})
        model.load_pretrained(str(path))
        return outputs(model, size, stages=False)


def resized():
    table = np.random.RandomState(1).standard_normal((1, 4, 5, 3)).astype(np.float32)
    grid = torch.from_numpy(table).permute(0, 3, 1, 2)
    sizes = {"7x3": (7, 3), "3x8": (3, 8)}
    resize = lambda size: torch.nn.functional.interpolate(grid, size=size, mode="bicubic", antialias=True, align_corners=False)
    return {f"resize/{name}": resize(size).permute(0, 2, 3, 1).numpy()[0] for name, size in sizes.items()}


def torch_file():
    """A state dict as training code leaves it: nested, prefixed, with a view, a half, a bfloat16, a parameter and an integer."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = collections.OrderedDict(
        {
            "module.weight": torch.nn.Parameter(base[:3, :2].clone()),
            "module.transposed": base.t(),
            "module.tail": base[1:, 3:],
            "module.half": base[0].half(),
            "module.brain": base[1].bfloat16(),
            "module.count": torch.tensor(7),
        }
    )
    torch.save({"model": state, "epoch": 3, "args": {"lr": 0.1}}, HERE / "torch_zip.pth")


def save(name, cases):
    np.savez_compressed(HERE / f"{name}.npz", **{f"{case}/{key}": value for case, kept in cases.items() for key, value in kept.items()})


def main():
    if sys.argv[1:2] == ["--load"]:
        import safetensors.torch

        weights = safetensors.torch.load_file(sys.argv[2])
        model = timm.create_model(sys.argv[3], **json.loads(sys.argv[4])).eval()
        model.load_state_dict(weights, strict=True)
        with torch.no_grad():
            print(json.dumps(model(torch.from_numpy(image(json.loads(sys.argv[5]))).permute(0, 3, 1, 2)).tolist()))
        return
    with torch.no_grad():
        save(
            "vit",
            {
                "vit_tiny_patch16_224": filled("vit_tiny_patch16_224", SIZE, depth=2),
                "vit_small_patch8_224": filled("vit_small_patch8_224", (16, 24), depth=1),
                "vit_medium_patch16_gap_240": filled("vit_medium_patch16_gap_240", SIZE, depth=2),
                "deit_tiny_distilled_patch16_224": filled("deit_tiny_distilled_patch16_224", SIZE, depth=2),
                "deit3_small_patch16_224": filled("deit3_small_patch16_224", SIZE, depth=2),
                "npz": from_npz(SIZE),
            }
            | {"position": resized()},
        )
        save(
            "mlp_mixer",
            {
                "mixer_s16_224": filled("mixer_s16_224", SIZE, blocks=2),
                "mixer_b32_224": filled("mixer_b32_224", (64, 96), blocks=2),
            },
        )
    torch_file()


if __name__ == "__main__":
    main()
