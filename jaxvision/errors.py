"""Errors that a user can put right. `main` prints each as one line and exits with its code; nothing else is caught."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input. The message is one line: what is wrong, where, and what would be right."""

    exit_code = 2

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))


class ConfigError(UserError):
    """A key, a value or a combination of them in the config or on the command line."""


class DataError(UserError):
    """A source that is absent, unreadable, or not what the config says."""


class ModelError(UserError):
    """An unknown model, or a size that its architecture does not allow."""


class CheckpointError(UserError):
    """A checkpoint that is absent, damaged, or does not fit the model."""


class NonFiniteError(UserError):
    """The loss or a gradient stopped being finite and the policy is to stop."""


class DoesNotFitError(UserError):
    """A run that preflight predicts not to fit into the memory of the chip."""

    exit_code = 3


class OutOfTimeError(UserError):
    """Preflight was given fewer minutes than compiling took."""


def nearest(name: str, choices: Iterable[str], most: int = 3) -> str:
    """A half-sentence naming the choices most like `name`: "did you mean 'a' or 'b'?", or what there is to choose from."""
    choices = sorted({str(choice) for choice in choices})
    close = difflib.get_close_matches(str(name), choices, n=most, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(choice) for choice in close) + "?"
    shown = ", ".join(choices[:20]) + (", …" if len(choices) > 20 else "")
    return f"there are: {shown}" if choices else "there are none"
