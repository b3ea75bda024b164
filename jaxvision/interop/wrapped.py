"""Checkpoints of self-supervised methods: which of their arrays are the backbone's, and what the method's own layers are called here.

Known are MoCo (a query and a key encoder and their queue), SwAV (projection head and prototypes beside torchvision's names), DINO (student and
teacher, weight-normalized last layer), and what vissl writes (trunk and heads apart, below "classy_state_dict").
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

VISSL = ("classy_state_dict", "base_model", "model")


class Parts(NamedTuple):
    """Arrays by name: the backbone's as its own checkpoints call them, and the head's as `projector.fc1.weight`, `prototypes.weight`, …."""

    backbone: dict[str, np.ndarray]
    own: dict[str, np.ndarray]


def unnested(content: Mapping[str, Any], section: str | None = None) -> Mapping[str, Any]:
    """The state dict of a file that keeps it in a place of its own: vissl's trunk and heads, DINO's teacher (or the `section` "student")."""
    place: Any = content
    for key in VISSL:
        place = place.get(key) if isinstance(place, Mapping) else None
    if isinstance(place, Mapping) and isinstance(place.get("trunk"), Mapping):
        return {f"{part}.{name}": array for part in ("trunk", "heads") for name, array in place.get(part, {}).items()}
    if section is None and isinstance(content.get("teacher"), Mapping) and isinstance(content.get("student"), Mapping):
        return content["teacher"]
    return content


# (backbone's names, the method's own names and ours, names that are dropped); the first layout that finds a name of the method's own is the file's.
LAYOUTS: tuple[tuple[str, tuple[tuple[str, str], ...], str], ...] = (
    (
        r"encoder_q\.(?!fc\.)(.*)",
        (
            (r"encoder_q\.fc\.0\.(.*)", r"projector.fc1.\1"),
            (r"encoder_q\.fc\.2\.(.*)", r"projector.fc2.\1"),
            (r"encoder_q\.fc\.(\w+)", r"projector.fc1.\1"),
        ),
        r"encoder_k\..*|queue|queue_ptr",
    ),
    (
        r"trunk\._feature_blocks\.(.*)",
        (
            # Perceptrons in a row, of which the first has a batch norm; or one projection head with prototypes.
            (r"heads\.0\.clf\.0\.(.*)", r"projector.fc1.\1"),
            (r"heads\.0\.clf\.1\.(.*)", r"projector.bn1.\1"),
            (r"heads\.1\.clf\.0\.(.*)", r"projector.fc2.\1"),
            (r"heads\.2\.clf\.0\.(.*)", r"projector.fc3.\1"),
            (r"heads\.0\.projection_head\.0\.(.*)", r"projector.fc1.\1"),
            (r"heads\.0\.projection_head\.1\.(.*)", r"projector.bn1.\1"),
            (r"heads\.0\.projection_head\.3\.(.*)", r"projector.fc2.\1"),
            (r"heads\.0\.prototypes0\.weight(?:_v)?", r"prototypes.weight"),
            (r"heads\.0\.prototypes0\.weight_g", r"prototypes.gain"),
        ),
        r"$",
    ),
    (
        r"backbone\.(.*)",
        (
            (r"head\.mlp\.0\.(.*)", r"projector.fc1.\1"),
            (r"head\.mlp\.2\.(.*)", r"projector.fc2.\1"),
            (r"head\.mlp\.4\.(.*)", r"projector.fc3.\1"),
            (r"head\.last_layer\.weight_v", r"prototypes.weight"),
            (r"head\.last_layer\.weight_g", r"prototypes.gain"),
        ),
        r"$",
    ),
    (
        r"(?!projection_head\.|prototypes\.)(.*)",
        (
            (r"projection_head\.0\.(.*)", r"projector.fc1.\1"),
            (r"projection_head\.1\.(.*)", r"projector.bn1.\1"),
            (r"projection_head\.3\.(.*)", r"projector.fc2.\1"),
            (r"prototypes\.weight", r"prototypes.weight"),
        ),
        r"$",
    ),
)


def split(arrays: Mapping[str, np.ndarray]) -> Parts | None:
    """The two parts of a self-supervised method's state dict; None for any other."""
    for backbone, renames, dropped in LAYOUTS:
        own = {}
        for name, array in arrays.items():
            for pattern, ours in renames:
                if match := re.fullmatch(pattern, name):
                    own[match.expand(ours)] = array.reshape(-1) if ours == "prototypes.gain" else array
                    break
        if not own and not any(name.startswith("trunk._feature_blocks.") for name in arrays):
            continue
        body = {match[1]: array for name, array in arrays.items() if (match := re.fullmatch(backbone, name)) and not re.fullmatch(dropped, name)}
        if body:
            if "prototypes.gain" in own and (own["prototypes.gain"] == 1).all():
                del own["prototypes.gain"]  # held at 1, so it is no parameter
            return Parts(body, own)
    return None
