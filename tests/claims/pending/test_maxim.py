"""Paper 75, small: gated MLPs over a grid carry what lies far away, which those over blocks cannot; and a small network takes noise off photographs,
at other sizes than it has learned from too."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxvision
from jaxvision.data.photos import photographs
from jaxvision.models.registry import create_model
from jaxvision.nn.multi_axis import GatedMlp
from jaxvision.train.config import load_config
from jaxvision.train.init_from import read_checkpoint_variables

CONFIG = pathlib.Path(__file__).resolve().parents[3] / "configs" / "maxim.py"
HERE = ["--config.mesh.data=1", "--config.writers=('jsonl',)", "--config.compilation_cache="]


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


@pytest.mark.pending
@pytest.mark.timeout(300)
def test_grids_carry_what_lies_far_away_and_blocks_cannot():
    errors = {name: far_error(grids) for name, grids in {"grid and block": (True, False), "blocks alone": (False, False)}.items()}
    print({name: round(error, 3) for name, error in errors.items()})
    assert errors["grid and block"] < 0.2 and errors["blocks alone"] > 0.9


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("maxim")
    config = load_config(f"{CONFIG}:demo", HERE)
    metrics = jaxvision.fit(config, workdir, report=lambda line: None)
    print({name: round(value, 3) for name, value in metrics.items() if name.startswith("test/")})
    return workdir, config, metrics


@pytest.mark.pending
@pytest.mark.timeout(300)
def test_a_small_network_takes_noise_off_photographs(denoiser):
    metrics = denoiser[2]
    assert metrics["test/psnr"] > metrics["test/input_psnr"] + 6 and metrics["test/ssim"] > metrics["test/input_ssim"] + 0.1


@pytest.mark.pending
@pytest.mark.timeout(300)
def test_the_same_parameters_serve_pictures_of_another_size(denoiser):
    workdir, config, _ = denoiser
    fields = {key: value for key, value in config.model.items() if key not in ("name", "dtype", "param_dtype")}
    model = create_model(config.model.name, num_classes=0, **fields)
    variables = read_checkpoint_variables(workdir, "last")[0]
    clean = np.stack([picture[64:192, 64:201] for picture in photographs("test").values()]).astype(np.float32) / 255
    noisy = np.clip(clean + 25 / 255 * np.random.RandomState(0).standard_normal(clean.shape), 0, 1).astype(np.float32)
    made = jax.jit(lambda v, x: model.apply(v, x))(variables, noisy)
    psnr = lambda x: float((-10 * np.log10(np.square(np.clip(x, 0, 1) - clean).mean((1, 2, 3)))).mean())
    figures = {"noisy": psnr(noisy), "restored": psnr(np.asarray(made))}
    print({name: round(value, 2) for name, value in figures.items()})
    assert figures["restored"] > figures["noisy"] + 5
