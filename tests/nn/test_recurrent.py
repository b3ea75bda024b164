import pathlib

import jax
import numpy as np

from jaxvision.nn.recurrent import GRU
from tests.reference_weights import fill, relative_error

GOLDEN = np.load(pathlib.Path(__file__).parent.parent / "golden" / "lipreader.npz")


def torch_parameters(layers, inputs, hidden):
    """The leaves of a bidirectional GRU called "gru" in a torch state dict."""
    params = {}
    for layer in range(layers):
        for direction in ("", "_reverse"):
            wide = inputs if layer == 0 else 2 * hidden
            for kind, width in (("ih", wide), ("hh", hidden)):
                name = f"{kind}_l{layer}{direction}"
                kernel, bias = fill(f"gru.weight_{name}", (3 * hidden, width)), fill(f"gru.bias_{name}", (3 * hidden,))
                params[name] = {"kernel": kernel.T, "bias": bias}
    return {"params": params}


def test_states_of_sequences_of_several_lengths_are_torch_s():
    gru, shown = GRU(6, 5, 2, bidirectional=True), np.arange(7) < np.array([[7], [4], [1]])
    states, finals = jax.jit(gru.apply)(torch_parameters(2, 6, 5), GOLDEN["gru_input"], shown)
    assert relative_error(np.where(shown[..., None], states, 0), GOLDEN["gru_output"]) < 1e-5
    assert relative_error(finals, GOLDEN["gru_final"]) < 1e-5


def test_parameters_start_uniform_within_one_over_the_root_of_the_width():
    params = GRU(6, 64, 1).init(jax.random.key(0), np.zeros((1, 2, 6), np.float32))["params"]
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    assert np.abs(values).max() <= 1 / 8 and abs(values.std() - 1 / 8 / 3**0.5) < 2e-3


def test_dropout_acts_between_layers_in_training_alone():
    x = np.random.RandomState(0).standard_normal((2, 3, 4)).astype(np.float32)
    one, two = GRU(4, 8, 1, dropout=0.5), GRU(4, 8, 2, dropout=0.5)
    for gru, changed in ((one, False), (two, True)):
        params = gru.init(jax.random.key(0), x)
        plain, trained = gru.apply(params, x)[0], gru.apply(params, x, train=True, rngs={"dropout": jax.random.key(1)})[0]
        assert (np.abs(plain - trained).max() > 1e-3) == changed
