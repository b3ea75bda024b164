"""What a stage that changes its network hands to the next."""

from collections.abc import Mapping
from typing import NamedTuple

from jaxvision.compress.architecture import Layers
from jaxvision.compress.cut import Entries


class Change(NamedTuple):
    """A network of other sizes.

    Attributes:
      layers: of the new network, see `compress.architecture.resized`.
      kept: entries of the old variables that the new network has; None where it begins anew.
      figures: for people.
    """

    layers: Layers
    kept: Entries | None
    figures: Mapping[str, float]
