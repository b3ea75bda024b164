"""Writes convit.npz beside itself from timm's ConViT, made small: python tests/golden/make_timm_convit.py.

Needs torch and timm, nothing of this library. Weights follow from the names in the state dict (`fill`), the input from a seed. Kept are the logits
and the first eight channels of the patch tokens after every block; and where the heads of new positional layers look.
"""

import pathlib
import zlib

import numpy as np
import timm
import torch
from timm.models.convit import GPSA


def fill(name, shape):
    z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    if len(shape) >= 2:
        return z / np.sqrt(np.prod(shape[1:]))
    return 1 + 0.1 * z if name.endswith("weight") else 0.1 * z


kept = {}
with torch.no_grad():
    model = timm.create_model("convit_tiny", num_classes=10, img_size=64, embed_dim=8, depth=4, num_heads=4, local_up_to_layer=2).eval()
    for key, parameter in model.named_parameters():
        parameter.copy_(torch.from_numpy(fill(key, parameter.shape)))
    x = torch.from_numpy(np.random.RandomState(0).standard_normal((2, 64, 64, 3)).astype(np.float32)).permute(0, 3, 1, 2)
    kept["logits"] = model(x).numpy()
    for i, stage in enumerate(model.forward_intermediates(x, intermediates_only=True)):
        kept[f"stage{i}"] = stage.permute(0, 2, 3, 1)[..., :8].numpy()
    for heads in (4, 9):
        layer = GPSA(heads * 4, heads, locality_strength=2.0)
        layer.local_init()
        kept[f"local{heads}"] = layer.pos_proj.weight.numpy()
np.savez_compressed(pathlib.Path(__file__).with_name("convit.npz"), **kept)
