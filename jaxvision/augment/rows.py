"""Random keys of examples: a draw belongs to the global row of an example, not to the device that holds it."""

import jax
from jaxtyping import Array, Int


def row_keys(key: Array, row: Int[Array, "b"]) -> Array:
    """One key an example, `fold_in(key, row)`, so that any split of the batch over devices draws the same numbers."""
    return jax.vmap(lambda r: jax.random.fold_in(key, r))(row)
