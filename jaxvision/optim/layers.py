"""How deep in a network a leaf lies, by its name: what layer-wise learning-rate decay counts. And which leaves stay as they are.

The stem and the embeddings are layer 0, the blocks 1, 2, … in order, across stages; everything behind them (last norm, pooling, heads,
decoders) is one more. That is BEiT's numbering (Bao et al. 2022, arXiv 2106.08254); timm counts the last norm with the last block instead.
"""

import functools
import re
from typing import Any

import numpy as np

from jaxvision.errors import ConfigError
from jaxvision.trees import map_named, named_leaves

_LAST = re.compile(r"(^|/)(head|heads|[^/]*_head|head_[^/]*|classifier|fc|fc_norm|decoder[^/]*|neck)(?=/|$)")
_FIRST = re.compile(
    r"(^|/)(patch_embed|stem|conv_stem|conv1|bn1|embedding|embeddings|norm_pre|pos_embed|position_embedding|pos_embedding|posembed_input|"
    r"cls|cls_token|dist_token|reg_token|mask_token|register_tokens|rope)(?=[/_]|$)"
)
# A block's place: the integers of the components that number stages and blocks, outermost first ("stages_1/blocks_2", "layer1_0", "s1_b1").
_STAGE = re.compile(r"(?:^|/)(?:stages|stage|layers|layer|features|network|s)_?(\d+(?:_b?\d+)*)(?=/|$)")
_BLOCK = re.compile(r"(?:^|/)(?:blocks|block|layers|encoderblock|MixerBlock|resblocks|b)_?(\d+(?:_\d+)*)(?=/|$)")
# Blocks that are scanned over are one leaf with a leading axis of blocks.
_STACK = re.compile(r"(^|/)blocks(?=/)")


def is_stacked(name: str) -> bool:
    """Whether the leaf's first axis numbers blocks: "blocks/attn/qkv/kernel"."""
    return _STACK.search(name) is not None


def is_frozen(name: str, freeze: tuple[str, ...]) -> bool:
    """Whether one of the regular expressions of optim.freeze finds the leaf's name."""
    return any(re.search(pattern, name) for pattern in freeze)


def _place(name: str) -> tuple[int, ...] | None:
    """Stage and block numbers of a leaf; what a stage holds beside its blocks (a downsampling) counts with its first block."""
    stage = _STAGE.search(name)
    block = _BLOCK.search(name, stage.end() if stage else 0)
    last = _LAST.search(name)
    found = [match for match in (stage, block) if match]
    if not found or (last and last.start() < found[0].start()):
        return None
    return tuple(int(number) for match in found for number in re.findall(r"\d+", match[1]))


@functools.lru_cache(maxsize=8)
def _numbering(names: tuple[str, ...]) -> dict[str, int]:
    places = {name: _place(name) for name in names}
    longest = max((len(place) for place in places.values() if place), default=0)
    if not longest:
        raise ConfigError(
            "optim.layer_decay: no parameter is named like a block (blocks_3/…, stages_1/blocks_2/…, layer1_0/…); set optim.layer_decay=1.0"
        )
    padded = {name: place and place + (0,) * (longest - len(place)) for name, place in places.items()}
    order = {place: number for number, place in enumerate(sorted({place for place in padded.values() if place}), start=1)}
    outside = lambda name: 0 if _FIRST.search(name) and not _LAST.search(name) else len(order) + 1
    return {name: order[place] if place else outside(name) for name, place in padded.items()}


def layer_of(name: str, names: tuple[str, ...]) -> int:
    """The layer of the leaf `name` among all leaves `names`: 0 stem and embeddings, then the blocks, last whatever comes behind them.

    Raises ConfigError when no name is a block's.
    """
    return _numbering(tuple(names))[name]


def layer_shares(params: Any, decay: float) -> Any:
    """A tree of each leaf's share of the learning rate, decay^(last layer - its layer); an array along the blocks where they are stacked.

    Raises ConfigError when no name is a block's.
    """
    one = lambda name, leaf: [_STACK.sub(rf"\1blocks_{i}", name) for i in range(leaf.shape[0])] if is_stacked(name) else [name]
    apart = {name: one(name, leaf) for name, leaf in named_leaves(params).items()}
    numbering = _numbering(tuple(name for names in apart.values() for name in names))
    last = 1 + max(number for name, number in numbering.items() if _place(name))

    def share(name, leaf):
        shares = [decay ** (last - numbering[single]) for single in apart[name]]
        return np.asarray(shares, np.float32).reshape(-1, *(1,) * (leaf.ndim - 1)) if is_stacked(name) else shares[0]

    return map_named(share, params)
