"""Writes deform_conv.npz beside itself from torchvision.ops.deform_conv2d: python tests/golden/make_torchvision_deform.py."""

import pathlib

import numpy as np
import torch
from torchvision.ops import deform_conv2d

# Image (h, w, c), kernel (kh, kw, features), stride, padding, dilation, groups, offset groups, whether there is a mask.
CASES = {
    "full": ((7, 9, 4), (3, 3, 5), 1, 1, 1, 1, 1, False),
    "stride": ((8, 9, 4), (3, 2, 4), 2, (1, 0), 1, 2, 1, False),
    "depthwise": ((6, 5, 4), (3, 3, 4), 1, 1, 1, 4, 1, False),
    "modulated": ((7, 6, 4), (2, 3, 6), 1, (2, 1), 2, 2, 2, True),
}
kept = {}
for case, ((h, w, c), (kh, kw, d), stride, padding, dilation, groups, parts, masked) in CASES.items():
    random = np.random.RandomState(0)
    pad, sides = (padding, padding) if isinstance(padding, int) else padding, []
    for n, k, p in zip((h, w), (kh, kw), pad):
        sides.append((n + 2 * p - dilation * (k - 1) - 1) // stride + 1)
    x = torch.tensor(random.standard_normal((2, h, w, c)), dtype=torch.float32).permute(0, 3, 1, 2).requires_grad_()
    offsets = torch.tensor(2 * random.standard_normal((2, *sides, 2 * parts * kh * kw)), dtype=torch.float32).permute(0, 3, 1, 2).requires_grad_()
    weight = torch.tensor(random.standard_normal((kh, kw, c // groups, d)), dtype=torch.float32).permute(3, 2, 0, 1).requires_grad_()
    mask = torch.tensor(random.uniform(size=(2, *sides, parts * kh * kw)), dtype=torch.float32).permute(0, 3, 1, 2) if masked else None
    y = deform_conv2d(x, offsets, weight, None, stride, padding, dilation, mask)
    y.square().sum().backward()
    kept[f"{case}/y"] = y.detach().permute(0, 2, 3, 1).numpy()
    kept[f"{case}/dx"], kept[f"{case}/doffsets"] = (v.grad.permute(0, 2, 3, 1).numpy() for v in (x, offsets))
    kept[f"{case}/dkernel"] = weight.grad.permute(2, 3, 1, 0).numpy()
np.savez_compressed(pathlib.Path(__file__).with_name("deform_conv.npz"), **kept)
