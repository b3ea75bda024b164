"""What a training run carries from one step to the next."""

from typing import Any

import flax.struct
from jaxtyping import Array, Int


@flax.struct.dataclass
class TrainState:
    """A pytree.

    Attributes:
      step: int32 scalar, the number of steps taken, skipped ones included.
      key: the run's random key; a step uses fold_in(key, step).
      params: trainable parameters.
      opt_state: {player: optax state}.
      extra: what the method carries along, by name: batch statistics ("batch_stats"), averaged weights ("ema"), queues, centres, prototypes.
      frozen: {name: variables} of networks that never change. Arguments of the step, sharded; no gradient, not donated, and saved
        by source and checksum instead of by value.
    """

    step: Int[Array, ""]
    key: Any
    params: Any
    opt_state: dict[str, Any]
    extra: dict[str, Any]
    frozen: dict[str, Any]

