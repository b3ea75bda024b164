"""Writes beit.npz beside itself from timm's BEiT, made small: python tests/golden/make_timm_beit.py.

Needs torch and timm, nothing of this library. Weights follow from the names in the state dict (`fill`), the input from a seed. Kept are the logits of
an image that is not square, the first eight channels of the patch tokens after every block, and a table brought to another grid.
"""

import pathlib
import zlib

import numpy as np
import timm
import torch
from timm.layers import resize_rel_pos_bias_table


def fill(name, shape):
    z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    if len(shape) >= 2:
        return z / np.sqrt(np.prod(shape[1:]))
    return 1 + 0.1 * z if name.endswith("weight") else 0.1 * z


kept = {}
with torch.no_grad():
    model = timm.create_model("beit_base_patch16_224", num_classes=10, img_size=(48, 64), embed_dim=32, depth=4, num_heads=4).eval()
    for key, parameter in model.named_parameters():
        parameter.copy_(torch.from_numpy(fill(key, parameter.shape)))
    x = torch.from_numpy(np.random.RandomState(0).standard_normal((2, 48, 64, 3)).astype(np.float32)).permute(0, 3, 1, 2)
    kept["logits"] = model(x).numpy()
    for i, stage in enumerate(model.forward_intermediates(x, intermediates_only=True)):
        kept[f"stage{i}"] = stage.permute(0, 2, 3, 1)[..., :8].numpy()
    table = torch.from_numpy(fill("table", (7 * 7 + 3, 2)).astype(np.float32))
    kept["resized"] = resize_rel_pos_bias_table(table, (6, 7), (11 * 13 + 3, 2), (4, 4)).numpy()
np.savez_compressed(pathlib.Path(__file__).with_name("beit.npz"), **kept)
