"""Paper 88, small: residual connections make Inception blocks train faster, and scaling their branches keeps deep wide stacks from growing."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvision
from jaxvision.models.registry import create_model
from jaxvision.train.config import load_config
from jaxvision.train.writers import read_metrics

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "inception_v4.py"
HERE = ["--config.mesh.data=1", "--config.writers=('jsonl',)", "--config.compilation_cache=", "--config.log_every=1", "--config.eval_every=1000"]
STEPS, LOSS = 180, 0.5


def steps_to_loss(arm: str, workdir: pathlib.Path) -> tuple[int, float]:
    """(first step at which the loss, smoothed by 0.9, is below LOSS, or STEPS; the smoothed loss at the end)."""
    jaxvision.fit(load_config(f"{CONFIG}:demo,{arm}", [*HERE, f"--config.steps={STEPS}"]), str(workdir / arm))
    losses = [line["train/loss"] for line in read_metrics(workdir / arm) if "train/loss" in line]
    smooth, first = losses[0], STEPS
    for step, loss in enumerate(losses, 1):
        smooth = 0.9 * smooth + 0.1 * loss
        if smooth < LOSS:
            first = min(first, step)
    return first, smooth


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_sixteen_residual_blocks_reach_a_loss_in_two_thirds_of_the_steps_of_plain_ones(tmp_path):
    residual, plain = (steps_to_loss(arm, tmp_path) for arm in ("residual", "plain"))
    print({"residual": residual, "plain": plain})
    assert plain[0] >= 1.5 * residual[0]
    assert plain[1] > residual[1]


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_activations_grow_along_wide_residual_blocks_and_hardly_when_branches_are_scaled():
    growth = {}
    image = jax.random.normal(jax.random.key(1), (4, 75, 75, 3))
    for scale in (1.0, 0.1):
        model = create_model("inception_resnet_v1", num_classes=0, image_size=75, depths=(1, 10, 1), scales=(scale,) * 3)
        shallow = model.clone(depths=(1, 0, 1))
        variables = jax.jit(model.init)(jax.random.key(0), image)
        run = lambda net: jax.jit(lambda v, x: net.apply(v, x, train=True, mutable=["batch_stats"], method="stages")[0])(variables, image)
        after, before = (jnp.square(run(net)[2]).mean() for net in (model, shallow))
        growth[scale] = float(after / before)
    print({scale: round(value, 3) for scale, value in growth.items()})
    # Ten sums of independent branches: the mean square grows by about the branches' share times scale squared, each.
    assert growth[1.0] > 2 and abs(growth[0.1] - 1) < 0.2
    assert np.isfinite(list(growth.values())).all()
