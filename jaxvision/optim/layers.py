"""How deep in a network a leaf lies, by its name: what layer-wise learning-rate decay counts.

The stem and the embeddings are layer 0, the blocks 1, 2, … in order, across stages; everything behind them (last norm, pooling, heads,
decoders) is one more. That is BEiT's numbering (Bao et al. 2022, arXiv 2106.08254); timm counts the last norm with the last block instead.
"""

import functools
import re

from jaxvision.errors import ConfigError

_LAST = re.compile(r"(^|/)(head|heads|[^/]*_head|head_[^/]*|classifier|fc|fc_norm|decoder[^/]*|neck)(/|$)")
_FIRST = re.compile(
    r"(^|/)(patch_embed|stem|embedding|embeddings|pos_embed|position_embedding|cls_token|dist_token|reg_token|mask_token|"
    r"conv1|bn1|norm_pre|rope|cls|pos_embedding|posembed_input)(?=[/_]|$)"
)
# A block's place is the integers of the components that number stages and blocks, outermost first.
_STAGE = re.compile(r"(?:^|/)(?:stages|stage|layers|layer|features|network)_?(\d+(?:_\d+)*)(?=/|$)")
_BLOCK = re.compile(r"(?:^|/)(?:blocks|block|layers|encoderblock|MixerBlock|resblocks)_?(\d+(?:_\d+)*)(?=/|$)")


def _place(name: str) -> tuple[int, ...] | None:
    """Stage and block numbers of a leaf; what a stage holds beside its blocks (a downsampling) counts with its first block."""
    if _LAST.search(name):
        return None
    stage = _STAGE.search(name)
    block = _BLOCK.search(name, stage.end() if stage else 0)
    numbers = [int(number) for match in (stage, block) if match for number in match[1].split("_")]
    return tuple(numbers) if numbers else None


@functools.lru_cache(maxsize=8)
def _numbering(names: tuple[str, ...]) -> tuple[dict[str, int], int]:
    places = {name: _place(name) for name in names}
    found = {place for place in places.values() if place is not None}
    longest = max((len(place) for place in found), default=0)
    if not longest:
        raise ConfigError(
            "optim.layer_decay: no parameter is named like a block (blocks_3/…, stages_1/blocks_2/…, layer1_0/…); set optim.layer_decay=1.0"
        )
    padded = {name: place and place + (0,) * (longest - len(place)) for name, place in places.items()}
    order = {place: number for number, place in enumerate(sorted({place for place in padded.values() if place}), start=1)}
    last = len(order) + 1
    return {name: order[place] if place else (0 if _FIRST.search(name) and not _LAST.search(name) else last) for name, place in padded.items()}, last


def layer_of(name: str, names: tuple[str, ...]) -> int:
    """The layer of the leaf `name` among all leaves `names`: 0 stem and embeddings, then the blocks, last whatever comes behind them.

    Raises ConfigError when no name is a block's.
    """
    return _numbering(tuple(names))[0][name]


def layer_scale(name: str, names: tuple[str, ...], decay: float) -> float:
    """decay^(last layer - layer of the leaf): its share of the learning rate."""
    layers, last = _numbering(tuple(names))
    return decay ** (last - layers[name])


def is_frozen(name: str, freeze: tuple[str, ...]) -> bool:
    """Whether one of the regular expressions of optim.freeze finds the leaf's name."""
    return any(re.search(pattern, name) for pattern in freeze)
