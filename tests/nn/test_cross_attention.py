import jax
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.nn.cross_attention import CrossAttentionProjector
from jaxvision.tasks.base import count
from tests.reference_weights import relative_error
from tests.tasks.scalekd_golden import GOLDEN, filled

# (module, what it is called with, the public code's number of parameters for both views); names of the golden outputs.
SMALL = {
    "p3": (CrossAttentionProjector(16, 4, (4, 4)), ("s3",), (None, None)),
    "p4": (CrossAttentionProjector(24, 8), ("s4",), ("qs", "qf")),
}


@pytest.mark.parametrize("stage", SMALL)
@pytest.mark.parametrize("number, view", enumerate(("spatial", "frequency")))
def test_projectors_are_those_of_the_public_code(stage, number, view):
    module, inputs, queries = SMALL[stage]
    called = [GOLDEN[name] for name in (*inputs, queries[number]) if name]
    variables = filled(module, called, f"projector_{number}")
    made, new = jax.jit(lambda v: module.apply(v, *called, train=True, mutable=["batch_stats"]))(variables)
    assert relative_error(np.asarray(made).reshape(3, -1, module.dim), GOLDEN[f"{stage}_{view}"]) < 3e-6
    if (stage, number) == ("p4", 0):
        running = new["batch_stats"]["proj_student_1"]
        assert relative_error(np.stack([running["mean"], running["var"]]), GOLDEN["running"]) < 1e-6


@pytest.mark.parametrize(
    "module, called, parameters",
    [
        (CrossAttentionProjector(768, 16, (14, 14)), ((14, 14, 1024),), 35_723_264),
        (CrossAttentionProjector(1536, 24), ((7, 7, 2048), (7, 7, 1536)), 140_234_752),
    ],
)
def test_the_projectors_from_resnet_50_to_swin_l_have_the_public_code_s_parameters(module, called, parameters):
    shapes = [jax.ShapeDtypeStruct((1, *shape), np.float32) for shape in called]
    made = jax.eval_shape(lambda *arrays: module.init(jax.random.key(0), *arrays), *shapes)
    assert 2 * count(made["params"]) == parameters


def test_initial_values_are_pytorch_s():
    module = CrossAttentionProjector(16, 4, (4, 4))
    params = module.init(jax.random.key(0), np.zeros((1, 4, 4, 32), np.float32))["params"]
    bound = lambda leaf: float(np.abs(leaf).max())
    for leaf, fan in ((params["proj_student_0"], 288), (params["pos_attention"]["k"], 32), (params["ffn"]["fc1"], 16), (params["ffn"]["fc2"], 64)):
        assert 0.7 * fan**-0.5 < bound(leaf["bias"]) <= fan**-0.5 and 0.9 * fan**-0.5 < bound(leaf["kernel"]) <= fan**-0.5
    assert np.std(params["query"]) == pytest.approx(1, abs=0.15) and np.std(params["pos_embed"]) == pytest.approx(0.02, rel=0.2)


def test_queries_are_its_own_or_given_and_heads_divide_the_width():
    x = np.zeros((1, 4, 4, 8), np.float32)
    with pytest.raises(ModelError, match="queries"):
        CrossAttentionProjector(16, 4, (4, 4)).init(jax.random.key(0), x, np.zeros((1, 4, 4, 16), np.float32))
    with pytest.raises(ModelError, match="queries"):
        CrossAttentionProjector(16, 4).init(jax.random.key(0), x)
    with pytest.raises(ModelError, match="16 channels cannot have 3 heads"):
        CrossAttentionProjector(16, 3, (2, 2)).init(jax.random.key(0), x)
