"""Dense layers of ViT-S/16 and Mixer-B/16."""

import jax

from jaxvision.kernels.cases import Case, spec
from jaxvision.kernels.dense import dense


def _case(name: str, tokens: int, channels: int, features: int) -> Case:
    def call(x: jax.Array, w: jax.Array, *, implementation: str | None) -> jax.Array:
        return dense(x, w, implementation=implementation)

    return Case(name, call, lambda batch, dtype: (spec(batch, tokens, channels, dtype=dtype), spec(channels, features, dtype=dtype)))


BENCH = (
    _case("ViT-S/16, first of the MLP", 197, 384, 1536),
    _case("ViT-S/16, second of the MLP", 197, 1536, 384),
    _case("Mixer-B/16, over tokens", 768, 196, 384),
)
