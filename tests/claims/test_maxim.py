"""Paper 75: gated MLPs over a grid carry what lies far away, which those over blocks cannot; and the published network of three U-Nets, loaded from a
file of the released layout, makes the published code's pictures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxvision import interop
from jaxvision.models.registry import create_model, shapes_of
from jaxvision.nn.multi_axis import GatedMlp
from jaxvision.trees import named_leaves
from tests.reference_weights import fill, relative_error
from tests.runs import ROOT

GOLDEN = np.load(ROOT / "tests" / "golden" / "maxim_s3.npz")


class Stack(nn.Module):
    """Gated MLPs in a row at one resolution; which of them mix over the grid."""

    grids: tuple[bool, ...]

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(24)(x)
        for number, grid in enumerate(self.grids):
            x = GatedMlp((4, 4), grid, name=f"mlp_{number}")(x)
        return nn.Dense(1)(x)


def far_error(grids, steps=400):
    """Mean squared error where the target is the pixel two of the four grid points further in both directions; the variance of that is 1."""
    model, optimizer = Stack(grids), optax.adam(optax.cosine_decay_schedule(5e-3, steps))

    def pair(key):
        image = jax.random.normal(key, (16, 16, 16, 1))
        return image, jnp.roll(image, (8, 8), (1, 2))

    loss = lambda params, key: (lambda image, wanted: jnp.square(model.apply(params, image) - wanted).mean())(*pair(key))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, key):
        updates, state = optimizer.update(jax.grad(loss)(params, key), state)
        return optax.apply_updates(params, updates), state

    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
    state = optimizer.init(params)
    for number in range(steps):
        params, state = step(params, state, jax.random.fold_in(jax.random.key(1), number))
    return float(jax.jit(loss)(params, jax.random.key(2)))


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_grids_carry_what_lies_far_away_and_blocks_cannot():
    errors = {name: far_error(grids) for name, grids in {"grid and block": (True, False), "blocks alone": (False, False)}.items()}
    print({name: round(error, 3) for name, error in errors.items()})
    assert errors["grid and block"] < 0.2 and errors["blocks alone"] > 0.9


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_the_published_network_restores_what_the_published_code_does_from_a_file_of_the_released_layout(tmp_path):
    """MAXIM-3S, 22 million parameters, three pictures of each of three U-Nets; run op by op, which spares a minute of compiling."""
    model, path = create_model("maxim_s3", num_classes=0, image_size=64), tmp_path / "checkpoint.npz"
    names = {name: leaf.shape for name, leaf in named_leaves(shapes_of(model)["params"]).items()}
    np.savez(path, **{f"opt/target/{name}": fill(name, shape, True) for name, shape in names.items()}, **{"opt/state/step": np.int64(7)})
    image = np.random.RandomState(0).uniform(size=(1, 64, 64, 3)).astype(np.float32)
    made = model.apply(interop.load_pretrained(model, path), image, method="outputs")
    errors = {}
    for number, picture in enumerate(made):
        stage, scale = divmod(number, 3)
        kept = picture[0, :: 2**scale, :: 2**scale]
        errors[stage, scale] = relative_error(kept, GOLDEN[f"s{stage}_{scale}"])
    print(errors)
    assert max(errors.values()) < 1e-4
