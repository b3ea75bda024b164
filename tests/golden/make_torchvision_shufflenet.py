"""Writes tests/golden/shufflenet_v2.npz: logits and stage maps of torchvision's ShuffleNetV2 with few units. Run where torchvision is installed.

    python tests/golden/make_torchvision_shufflenet.py
"""

import pathlib
import zlib

import numpy as np
import torch
from torchvision.models.shufflenetv2 import ShuffleNetV2

SIZE = (71, 45)


def fill(name, shape):
    """The same rule as in tests/reference_weights.py."""
    z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    if len(shape) > 1:
        return (z / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    if name.endswith("var"):
        return (1 + 0.1 * np.abs(z)).astype(np.float32)
    return (1 + 0.1 * z if name.endswith("weight") else 0.1 * z).astype(np.float32)


model = ShuffleNetV2([2, 2, 1], [24, 48, 96, 192, 64], num_classes=10).eval()
with torch.no_grad():
    for name, value in model.state_dict().items():
        if value.dtype.is_floating_point:
            value.copy_(torch.from_numpy(fill(name, value.shape)))
    image = np.random.RandomState(0).standard_normal((2, *SIZE, 3)).astype(np.float32)
    x = model.maxpool(model.conv1(torch.from_numpy(image.transpose(0, 3, 1, 2))))
    out = {"x/size": np.array(SIZE), "x/logits": model(torch.from_numpy(image.transpose(0, 3, 1, 2))).numpy()}
    for i, stage in enumerate((torch.nn.Identity(), model.stage2, model.stage3, model.stage4)):
        x = stage(x)
        kept = x.numpy().transpose(0, 2, 3, 1)
        rows, columns = (-(-side // 32) for side in kept.shape[1:3])
        out[f"x/stage{i}"] = kept[:, ::rows, ::columns, :: kept.shape[-1] // 8][..., :8]
np.savez_compressed(pathlib.Path(__file__).parent / "shufflenet_v2.npz", **out)
