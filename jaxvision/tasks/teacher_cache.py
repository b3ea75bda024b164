"""What a frozen teacher says of each training picture, asked once and kept, for students that see every picture the same each time.

The answers lie in `extra["taught"]`, a row an example of the source, so that a resumed run has them too; in memory they take what one answer takes
times the number of pictures. A step whose pictures are all known does not run the teacher. Pictures must not change from epoch to epoch: `check`
says which settings change them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxvision.errors import ConfigError

# Of config.data.crop: those that cut a picture alike each time.
STILL = ("none", "resize")


def check(config: Any, augment: Any) -> None:
    """Raises ConfigError where a picture is another one each time, naming what makes it so."""
    moving = [f"data.crop={config.data.crop!r}"] if config.data.crop not in STILL else []
    plain = type(augment)(augment.mean, augment.std, size=augment.size, crop=augment.crop)
    how = ("mix_prob", "switch_prob")  # of mixing, where there is any
    names = [field.name for field in dataclasses.fields(augment) if field.name not in how]
    moving += [f"augment.{name}" for name in names if getattr(augment, name) != getattr(plain, name)]
    moving += ["phases"] if config.get("phases", ()) else []
    if moving:
        raise ConfigError(f"task.cache keeps the teacher's answers for pictures that stay as they are, and {', '.join(moving)} changes them")


def empty(count: int, answer: Any) -> dict[str, Any]:
    """Room for `count` answers, none known. `answer`: the shapes of a batch of one."""
    return {
        "known": jnp.zeros(count, bool),
        "answers": jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape[1:]), leaf.dtype), answer),
    }


def ask(kept: dict[str, Any], index: Int[Array, "b"], teacher: Callable[[], Any]) -> Any:
    """The answers for the examples `index`: the kept ones where all of them are known, else those of `teacher()`."""
    look_up = lambda: jax.tree.map(lambda leaf: leaf[index], kept["answers"])
    return jax.lax.cond(kept["known"][index].all(), look_up, teacher)


def keep(kept: dict[str, Any], index: Int[Array, "b"], answers: Any) -> dict[str, Any]:
    """`kept` with the answers for the examples `index`."""
    answers = jax.tree.map(lambda leaf, new: leaf.at[index].set(new.astype(leaf.dtype)), kept["answers"], answers)
    return {"known": kept["known"].at[index].set(True), "answers": answers}
