"""Which implementation of an op runs where the caller names none: the one for the platform that the program is compiled for.

JAXVISION_KERNELS=reference in the environment takes plain XLA code instead, everywhere and for the whole process: to tell an error of a kernel from
one elsewhere, and to compile the step that kernels are compared with.
"""

import os

from jaxvision.errors import ConfigError

VARIABLE = "JAXVISION_KERNELS"


def chosen(implementation: str | None) -> str | None:
    """The caller's choice, or the environment's; None leaves it to the platform. Raises ConfigError for another value than "reference"."""
    if implementation is not None or not (value := os.environ.get(VARIABLE)):
        return implementation
    if value != "reference":
        raise ConfigError(f"{VARIABLE}={value!r} in the environment: the only choice for all ops is 'reference', plain XLA code")
    return value
