"""MetaFormer's weights in other people's files: timm's, and the release of PoolFormer."""

import re

from jaxvision.models.rules import Rule

_BLOCK = r"stages_(\d+)/blocks_(\d+)"


def _in_list(match: re.Match) -> str:
    return f"network.{2 * int(match[1])}.{match[2]}"


CHECKPOINT = {
    "torch": (
        Rule(rf"{_BLOCK}/((?:layer|res)_scale\d)/gamma", r"stages.\1.blocks.\2.\3.scale", literal=True),
        Rule(rf"{_BLOCK}/(\w+)/(act1?)/scale", r"stages.\1.blocks.\2.\3.\4.scale", literal=True),
        Rule(
            r"stages_(\d+)/pos_embed",
            r"stages.\1.pos_embed",
            load=lambda arrays, shape: arrays[0].transpose(0, 2, 3, 1),
            save=lambda array: (array.transpose(0, 3, 1, 2),),
        ),
    ),
    # PoolFormer's first release: stages and the convolutions between them in one list.
    "sail-sg": (
        Rule(r"stem/conv/(\w+)", r"patch_embed.proj.\1"),
        Rule(r"stages_(\d)/downsample/conv/(\w+)", lambda match: f"network.{2 * int(match[1]) - 1}.proj.{match[2]}"),
        Rule(rf"{_BLOCK}/layer_scale(\d)/gamma", lambda match: f"{_in_list(match)}.layer_scale_{match[3]}"),
        Rule(rf"{_BLOCK}/(.*)/(\w+)", lambda match: f"{_in_list(match)}.{match[3].replace('/', '.')}.{match[4]}"),
        Rule(r"head/norm/(\w+)", r"norm.\1"),
        Rule(r"head/fc/(\w+)", r"head.\1"),
    ),
}
