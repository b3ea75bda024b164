import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.registry import create_model
from jaxvision.nn.taps import run_watched

NETWORKS = {
    "vit": ("vit_tiny_patch16_224", {"patch": 4, "dim": 16, "depth": 2, "heads": 2}, 8, ("blocks_0", "norm")),
    "resnet": ("resnet18_cifar", {"depths": (1, 1), "widths": (4, 8)}, 8, ("layer1_0", "layer2_0")),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    name, fields, side, taps = NETWORKS[request.param]
    model = create_model(name, num_classes=5, image_size=side, **fields)
    image = jax.random.normal(jax.random.key(0), (2, side, side, 3))
    return model, jax.jit(model.init)(jax.random.key(1), image), image, taps


def test_one_pass_gives_logits_and_the_maps_that_stages_gives(network):
    model, variables, image, taps = network
    logits, seen, new = jax.jit(lambda v: run_watched(model, v, image, watch=taps, mutable=("batch_stats",)))(variables)
    np.testing.assert_allclose(logits, jax.jit(model.apply)(variables, image), atol=1e-6)
    first = jax.jit(lambda v: model.apply(v, image, method="stages"))(variables)[0]
    seen_first = seen[taps[0]] if seen[taps[0]].ndim == 4 else seen[taps[0]][:, 1:].reshape(first.shape)
    np.testing.assert_allclose(seen_first, first, atol=1e-6)
    assert set(new) <= {"batch_stats"}


def test_a_network_goes_on_from_its_own_features_as_if_it_had_seen_the_picture(network):
    model, variables, image, (enter, leave) = network
    logits, seen, _ = run_watched(model, variables, image, watch=(enter, leave))
    other = jnp.zeros_like(image)
    went_on, later, _ = run_watched(model, variables, other, watch=(leave,), replace={enter: seen[enter]})
    np.testing.assert_array_equal(went_on, logits)
    np.testing.assert_array_equal(later[leave], seen[leave])


def test_what_is_replaced_has_a_gradient_and_what_came_before_has_none(network):
    model, variables, image, (enter, leave) = network
    _, seen, _ = run_watched(model, variables, image, watch=(enter,))
    after = lambda value, v: jnp.square(run_watched(model, v, image, watch=(leave,), replace={enter: value})[1][leave]).sum()
    to_value, to_weights = jax.jit(jax.grad(after, (0, 1)))(seen[enter], variables)
    assert np.abs(to_value).max() > 0
    touched = {name for name, tree in to_weights["params"].items() if any(np.any(leaf) for leaf in jax.tree.leaves(tree))}
    assert touched and not touched & {enter, "patch_embed", "conv1", "stem"}


def test_recomputed_blocks_are_watched_too():
    name, fields, side, _ = NETWORKS["vit"]
    image = jax.random.normal(jax.random.key(0), (2, side, side, 3))
    models = [create_model(name, num_classes=5, image_size=side, remat=remat, **fields) for remat in (True, False)]
    variables = jax.jit(models[1].init)(jax.random.key(1), image)
    value = lambda model: lambda v: jnp.square(run_watched(model, v, image, watch=("blocks_0",))[1]["blocks_0"]).sum()
    ours, plain = (jax.jit(jax.grad(value(model)))(variables)["params"]["blocks_0"]["mlp"]["fc1"]["kernel"] for model in models)
    np.testing.assert_allclose(ours, plain, atol=1e-6)


def test_an_unknown_module_names_its_neighbours(network):
    model, variables, image, taps = network
    with pytest.raises(ModelError, match=f"calls no module '{taps[0]}x'.*{taps[0]}"):
        jax.eval_shape(lambda v: run_watched(model, v, image, watch=(taps[0] + "x",))[0], variables)
