"""CoDeNet in small, on procedural shapes in pictures of 64 pixels: what moving taps are worth, and what 4 bits cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import fit
from jaxvision.data.shapes import paint
from jaxvision.models.registry import create_model
from jaxvision.tasks.base import input_constants
from jaxvision.train.config import complete, load_config, plain
from jaxvision.train.given import read_checkpoint_variables
from tests.runs import ROOT


def demo(steps: int, **changes):
    """The demo's float stage alone, of so many steps."""
    tree = plain(load_config(str(ROOT / "configs/codenet.py") + ":demo"))
    tree |= {"stages": (), "steps": steps, "eval_every": steps, "writers": ("jsonl",)}
    for name, value in changes.items():
        tree[name] = {**tree[name], **value} if isinstance(tree[name], dict) else value
    return complete(tree)


@pytest.mark.pending
@pytest.mark.timeout(300)
def test_convolutions_whose_taps_move_find_shapes_of_all_sizes_better(tmp_path):
    found = {}
    for kind in ("depthwise", "square_depthwise", "deform"):
        tree = plain(demo(400, data={"name": "scales"}))
        fields = {key: value for key, value in tree["model"].items() if key != "head"}
        tree["model"] = {**fields, "name": f"codenet_{kind}"}
        found[kind] = fit(complete(tree), tmp_path / kind, report=lambda line: None)
        print(kind, {name: round(100 * value, 1) for name, value in found[kind].items() if "ap" in name})
    ap50 = {kind: metrics["test/ap50"] for kind, metrics in found.items()}
    assert ap50["deform"] > ap50["depthwise"] + 0.02
    assert ap50["square_depthwise"] > ap50["depthwise"]


@pytest.mark.pending
@pytest.mark.timeout(300)
def test_four_bits_cost_little_when_training_knows_of_them_and_radii_follow_sizes(tmp_path):
    quantized = {"model.weight_bits": 4, "init_from": "stage:float", "steps": 100, "eval_every": 100, "optim.lr": 5e-4, "optim.warmup": 0}
    afterwards = {**quantized, "steps": 10, "eval_every": 10, "optim.lr": 0.0, "optim.schedule": "constant"}
    stages = (("float", {}), ("afterwards", afterwards), ("trained", quantized))
    config = demo(500, stages=stages)
    fit(config, tmp_path, report=lambda line: None)
    ap50 = {name: _last(tmp_path / name)["test/ap50"] for name, _ in stages}
    print("AP50:", {name: round(100 * value, 1) for name, value in ap50.items()})
    correlation = radius_and_size(config, tmp_path / "float")
    print("correlation of radius and size at centres, by decoder step:", np.round(correlation, 2))
    assert ap50["trained"] > ap50["float"] - 0.03 and ap50["trained"] > ap50["afterwards"]
    assert max(correlation) > 0.2


def _last(folder) -> dict:
    from jaxvision.train.writers import read_metrics

    return next(row for row in reversed(read_metrics(folder)) if "test/ap50" in row)


def radius_and_size(config, folder) -> list[float]:
    """Rank correlation of the learned radius at the centres of test shapes with their size, for each step of the decoder."""
    variables, meta = read_checkpoint_variables(folder)
    fields = {key: value for key, value in config.model.items() if key not in ("name", "dtype", "param_dtype")}
    model = create_model(config.model.name, num_classes=len(meta["classes"]), image_size=(64, 64), **fields)
    constants = input_constants(config, 3)
    shapes = [paint(config.seed, number, (64, 64), 4, 1, config.data.name) for number in range(128)]
    image = (np.stack([shape["image"] for shape in shapes]) / 255 - constants["mean"]) / constants["std"]
    run = jax.jit(functools.partial(model.apply, variables, mutable="taps"))
    taps = run(jnp.asarray(image, jnp.float32))[1]["taps"]
    rows = []
    for step in range(3):
        radius, pairs = np.asarray(taps[f"radius{step}"][0])[..., 0], []
        stride = 64 // radius.shape[1]
        for i, shape in enumerate(shapes):
            for top, left, bottom, right in shape["boxes"][shape["box_valid"]]:
                cell = int((top + bottom) / 2 // stride), int((left + right) / 2 // stride)
                pairs.append((radius[i][cell], np.sqrt((bottom - top) * (right - left))))
        ranks = np.argsort(np.argsort(np.array(pairs), axis=0), axis=0)
        rows.append(float(np.corrcoef(ranks.T)[0, 1]))
    return rows
