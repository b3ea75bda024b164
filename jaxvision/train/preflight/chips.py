"""What chips can do, by their published data sheets; clocks, by which the compiler's cycles become seconds, are the best known figures."""

import dataclasses

from jaxvision.errors import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a program is priced by.

    Attributes:
      flops: bfloat16 operations a second; bandwidth: of the main memory, bytes a second; memory: bytes; clock: Hz.
      link: half of all its links, bytes a second.
    """

    name: str
    platform: str
    flops: float
    bandwidth: float
    memory: float
    clock: float
    link: float


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", "tpu", 275e12, 1228e9, 32 * 2**30, 1.05e9, 150e9),
        Chip("v5e", "tpu", 197e12, 819e9, 16 * 2**30, 1.5e9, 100e9),
        Chip("v5p", "tpu", 459e12, 2765e9, 95 * 2**30, 1.75e9, 300e9),
        Chip("v6e", "tpu", 918e12, 1640e9, 32 * 2**30, 1.75e9, 224e9),
        Chip("h100", "cuda", 989e12, 3350e9, 80e9, 1.98e9, 450e9),
    )
}


def chip_of(topology: str) -> Chip:
    """The chip of a topology's name, "v5e:16x16". Raises ConfigError for one that is not in the table."""
    name = topology.split(":")[0]
    if name not in CHIPS:
        raise ConfigError(f"--topology={topology}: the chip {name!r} is unknown; {nearest(name, CHIPS)}; write v5e:16x16 or h100:8")
    return CHIPS[name]
