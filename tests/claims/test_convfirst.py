"""Paper 25, on scikit-learn's digits: at equal multiply-adds a ConvFirst net is no worse than one of depthwise 7x7 blocks."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

import jaxvision
from jaxvision.models.complexity import complexity
from jaxvision.models.convfirst import ConvFirstNet
from jaxvision.train.config import load_config

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "convfirst.py"
HERE = ["--config.mesh.data=1", "--config.writers=('jsonl',)", "--config.compilation_cache=", "--config.epochs=5"]


def model_of(kind: str) -> ConvFirstNet:
    fields = load_config(f"{CONFIG}:demo,{kind}", HERE).model.to_dict()
    return ConvFirstNet(num_classes=10, image_size=(16, 16), **{key: fields[key] for key in ("block", "depths", "dims", "stem", "hidden")})


def traffic(kind: str) -> float:
    """Bytes that inference moves, by the compiler's count: of a program for this machine, so of no kernel written by hand."""
    model = model_of(kind)
    image = jax.ShapeDtypeStruct((32, 16, 16, 1), jnp.float32)
    variables = jax.eval_shape(lambda image: model.init(jax.random.key(0), image), image)
    return jax.jit(lambda v, image: model.apply(v, image)).lower(variables, image).compile().cost_analysis()["bytes accessed"]


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_at_equal_multiply_adds_convfirst_is_not_worse_than_depthwise_blocks(tmp_path):
    kinds = ("convfirst", "convnext")
    macs = {kind: complexity(model_of(kind), 1).flops for kind in kinds}
    reached = {kind: jaxvision.fit(load_config(f"{CONFIG}:demo,{kind}", HERE), str(tmp_path / kind))["test/accuracy"] for kind in kinds}
    print({"multiply-adds": macs, "accuracy": reached, "bytes": {kind: traffic(kind) for kind in kinds}})
    assert abs(macs["convfirst"] / macs["convnext"] - 1) < 0.05
    assert reached["convfirst"] > 0.95
    assert reached["convfirst"] > reached["convnext"] - 0.01
