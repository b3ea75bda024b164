import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvision.errors import ConfigError
from jaxvision.optim import make_rule

ROWS, FEATURES, CLASSES = 16, 5, 3
RANDOM = np.random.RandomState(0)
BATCH = {
    "x": jnp.asarray(RANDOM.standard_normal((ROWS, FEATURES)), jnp.float32),
    "label": {"hard": jnp.asarray(np.eye(CLASSES)[RANDOM.randint(0, CLASSES, ROWS)], jnp.float32)},
}
PARAMS = {"kernel": jnp.asarray(RANDOM.standard_normal((FEATURES, CLASSES)), jnp.float32), "bias": jnp.asarray([0.1, -0.2, 0.3])}
KEY = jax.random.key(3)


def logistic(params, batch, key):
    logits = batch["x"] @ params["kernel"] + params["bias"]
    loss = -(jax.nn.log_softmax(logits) * batch["label"]["hard"]).sum(-1).mean()
    return loss, {"metrics": {"loss": loss}, "outputs": {"logits": logits}, "seen": jnp.int32(1)}


GRAD = jax.value_and_grad(logistic, has_aux=True)


def rule_gradient(groups=1, grad_fn=GRAD, params=PARAMS, batch=BATCH, step=0, run=None, **config):
    return make_rule(config, **(run or {}))(grad_fn, params, batch, KEY, step, groups=groups)


def close(a, b, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=atol), a, b)


def by_hand(kernel, bias, rows=slice(None)):
    """The gradient of the logistic loss in closed form, float64 numpy."""
    x, y = np.asarray(BATCH["x"], np.float64)[rows], np.asarray(BATCH["label"]["hard"], np.float64)[rows]
    logits = x @ kernel + bias
    share = np.exp(logits - logits.max(-1, keepdims=True))
    error = (share / share.sum(-1, keepdims=True) - y) / len(x)
    return x.T @ error, error.sum(0)


def two_passes(rho, rows=slice(None), adaptive=None, alpha=0.0):
    kernel, bias = (np.asarray(PARAMS[name], np.float64) for name in ("kernel", "bias"))
    size = (np.abs(kernel) + adaptive, np.ones_like(bias)) if adaptive is not None else (np.ones_like(kernel), np.ones_like(bias))
    clean = by_hand(kernel, bias, rows)
    norm = np.sqrt(sum(((t * g) ** 2).sum() for t, g in zip(size, clean)))
    kernel, bias = (w + rho * t**2 * g / norm for w, t, g in zip((kernel, bias), size, clean))
    there = by_hand(kernel, bias, rows)
    along = sum((g * h).sum() for g, h in zip(clean, there)) / sum((h**2).sum() for h in there)
    result = [h - alpha * (g - along * h) for g, h in zip(clean, there)]
    return {"kernel": result[0], "bias": result[1]}


def test_plain_hands_on_the_gradient_and_the_key():
    (loss, aux), grads = rule_gradient(rule="plain")
    (expected, _), expected_grads = GRAD(PARAMS, BATCH, KEY)
    close(grads, expected_grads, atol=0)
    assert loss == expected and set(aux) == {"metrics", "outputs", "seen"}


@pytest.mark.parametrize("rho", [0.05, 0.5])
def test_sam_is_two_literal_passes(rho):
    (loss, aux), grads = rule_gradient(rule="sam", rho=rho)
    close(grads, two_passes(rho))
    clean = logistic(PARAMS, BATCH, KEY)[0]
    assert float(loss) == pytest.approx(float(clean)) and float(aux["metrics"]["loss"]) == pytest.approx(float(clean))
    assert max(float(jnp.abs(a - b).max()) for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(GRAD(PARAMS, BATCH, KEY)[1]))) > 1e-3


def test_asam_follows_its_definition_with_biases_left_at_their_size():
    close(rule_gradient(rule="asam", rho=0.5, eta=0.02)[1], two_passes(0.5, adaptive=0.02))


def test_gsam_takes_off_the_part_of_the_clean_gradient_orthogonal_to_sams():
    close(rule_gradient(rule="gsam", rho=0.3, alpha=0.4)[1], two_passes(0.3, alpha=0.4))


def test_gsam_without_its_two_additions_is_sam():
    close(rule_gradient(rule="gsam", rho=0.3, alpha=0.0)[1], rule_gradient(rule="sam", rho=0.3)[1], atol=0)


def test_the_radius_of_gsam_follows_the_learning_rate():
    run = dict(total_steps=10, steps_per_epoch=10, batch_size=ROWS)
    config = dict(rule="gsam", rho_min=0.1, rho_max=0.5, lr=1.0, lr_end=0.2, schedule="linear", warmup=2)
    # Rates 0, 1 and 0.6 at steps 0, 2 and 6; below lr_end the radius stays at rho_min.
    for step, rho in ((0, 0.1), (2, 0.5), (6, 0.3)):
        close(rule_gradient(step=step, run=run, **config)[1], two_passes(rho))


@pytest.mark.parametrize("rule", ["sam", "asam", "gsam"])
@pytest.mark.parametrize("groups", [1, 4])
def test_without_a_radius_the_gradient_is_the_plain_one_bit_for_bit(rule, groups):
    gradient = jax.jit(lambda params, **config: rule_gradient(params=params, groups=groups, **config)[1], static_argnames=("rule", "rho"))
    close(gradient(PARAMS, rule=rule, rho=0.0), gradient(PARAMS, rule="plain"), atol=0)


def test_both_passes_use_the_same_randomness():
    def noisy(params, batch, key):
        return jnp.sum(params["kernel"] * jax.random.normal(key, params["kernel"].shape)), {}

    grad_fn = jax.value_and_grad(noisy, has_aux=True)
    # The loss is linear, so its gradient is the noise itself, wherever it is taken.
    grads = rule_gradient(rule="sam", rho=0.5, grad_fn=grad_fn)[1]
    close(grads["kernel"], jax.random.normal(KEY, (FEATURES, CLASSES)))


def test_groups_are_blocks_of_neighbouring_rows_each_with_its_own_ascent():
    (loss, aux), grads = rule_gradient(rule="sam", rho=0.5, groups=4)
    parts = [two_passes(0.5, slice(4 * j, 4 * j + 4)) for j in range(4)]
    close(grads, jax.tree.map(lambda *xs: sum(xs) / 4, *parts))
    assert float(jnp.abs(grads["kernel"] - two_passes(0.5)["kernel"]).max()) > 1e-3
    (expected, expected_aux), _ = GRAD(PARAMS, BATCH, KEY)
    close((loss, aux["metrics"], aux["outputs"]), (expected, expected_aux["metrics"], expected_aux["outputs"]))
    assert aux["seen"] == 1


def test_each_group_draws_its_own_randomness():
    def noisy(params, batch, key):
        return jnp.sum(params["kernel"] * jax.random.normal(key, (FEATURES, CLASSES))), {}

    grads = rule_gradient(rule="plain", groups=2, grad_fn=jax.value_and_grad(noisy, has_aux=True))[1]
    drawn = [jax.random.normal(jax.random.fold_in(KEY, j), (FEATURES, CLASSES)) for j in range(2)]
    close(grads["kernel"], (drawn[0] + drawn[1]) / 2)


def test_frozen_leaves_are_not_climbed_and_have_no_gradient():
    grads = rule_gradient(rule="sam", rho=0.5, freeze=("bias",))[1]
    assert not grads["bias"].any()

    def held(params, batch, key):
        return logistic({**params, "bias": PARAMS["bias"]}, batch, key)

    alone = rule_gradient(rule="sam", rho=0.5, grad_fn=jax.value_and_grad(held, has_aux=True), params={"kernel": PARAMS["kernel"]})[1]
    close(grads["kernel"], alone["kernel"])


def test_the_norm_is_float32_whatever_the_gradients():
    seen = []

    def grad_fn(params, batch, key):
        seen.append(params["w"])
        return (jnp.float32(0), {}), {"w": jnp.full(4096, 1 + 2**-7, jnp.bfloat16)}

    make_rule({"rule": "sam", "rho": 64.0})(grad_fn, {"w": jnp.zeros(4096)}, BATCH, KEY, 0, groups=1)
    # All elements are equal, so each moves by rho / 64 = 1; the square of 1 + 2^-7 needs more digits than bfloat16 has.
    np.testing.assert_allclose(seen[1], 1.0, rtol=1e-6)


# --- on several devices ---

IMAGES = {
    "image": jnp.asarray(RANDOM.standard_normal((32, 8, 8, 3)), jnp.float32),
    "label": jnp.asarray(np.eye(8)[RANDOM.randint(0, 8, 32)], jnp.float32),
}
CONV = {
    "conv": {"kernel": jnp.asarray(0.2 * RANDOM.standard_normal((3, 3, 3, 8)), jnp.float32)},
    "head": {"kernel": jnp.asarray(RANDOM.standard_normal((8, 8)), jnp.float32)},
}


def conv_net(params, batch, key, running):
    """Convolution, batch norm with a running mean, dropout, head."""
    h = jax.lax.conv_general_dilated(batch["image"], params["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    mean = h.mean((0, 1, 2))
    h = jax.nn.gelu(h - mean).mean((1, 2))
    h = h * jax.random.bernoulli(key, 0.9, h.shape)
    loss = -(jax.nn.log_softmax(h @ params["head"]["kernel"]) * batch["label"]).sum(-1).mean()
    return loss, {"extra": 0.9 * running + 0.1 * mean, "outputs": h}


TRANSFORM = optax.adam(0.01)


@functools.partial(jax.jit, static_argnames=("groups", "rule"))
def train_step(params, opt_state, batch, running, step, *, groups, rule="sam"):
    grad_fn = jax.value_and_grad(lambda *args: conv_net(*args, running), has_aux=True)
    key = jax.random.fold_in(KEY, step)
    (loss, aux), grads = make_rule({"rule": rule, "rho": 0.2})(grad_fn, params, batch, key, step, groups=groups)
    updates, opt_state = TRANSFORM.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss, aux


def train(params, batch, running, groups):
    """Parameters, loss and auxiliary output of the third step."""
    opt_state = TRANSFORM.init(params)
    for step in range(3):
        params, opt_state, loss, aux = train_step(params, opt_state, batch, running, step, groups=groups)
        running = aux["extra"]
    return jax.device_get((params, loss, aux))


def mesh_of(*shape):
    return Mesh(np.asarray(jax.devices()[: np.prod(shape)]).reshape(shape), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def placed(mesh):
    put = lambda tree, spec: jax.device_put(tree, NamedSharding(mesh, spec))
    params = {"conv": put(CONV["conv"], P(None, None, None, "fsdp")), "head": put(CONV["head"], P("tensor"))}
    return params, put(IMAGES, P(("data", "fsdp"))), put(jnp.ones(8), P())


# 8 and 16 groups are a multiple of the shards; 2 groups are fewer, and are spread over all devices one after the other.
@pytest.mark.parametrize("shape, groups", [((8, 1, 1), 1), ((4, 2, 1), 8), ((2, 1, 1), 4), ((8, 1, 1), 2), ((2, 2, 2), 4)])
def test_several_devices_take_the_same_first_steps_as_one(shape, groups):
    mesh = mesh_of(*shape)
    with jax.set_mesh(mesh):
        sharded = train(*placed(mesh), groups)
    close(sharded, train(CONV, IMAGES, jnp.ones(8), groups), atol=2e-6)


def test_no_example_travels_between_devices():
    mesh = mesh_of(4, 2, 1)
    with jax.set_mesh(mesh):
        params, batch, running = placed(mesh)
        compiled = train_step.lower(params, TRANSFORM.init(params), batch, running, 0, groups=8).compile()
    shapes = re.findall(r"= \(?\w+\[([\d,]*)\][^=]*? (?:all-gather|all-to-all|collective-permute|all-reduce)\(", compiled.as_text())
    sizes = [int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes]
    assert sizes and max(sizes) <= CONV["conv"]["kernel"].size < IMAGES["image"].size // 8


@pytest.mark.parametrize(
    "config, message",
    [
        (dict(rule="sma"), "optim.rule='sma' is unknown; did you mean 'sam'"),
        (dict(rule="sam", rho=-1.0), "optim.rho takes a number of at least 0, got -1.0"),
        (dict(rule="sam", rho_max=0.5), "optim.rho_min and optim.rho_max are for optim.rule='gsam'"),
        (dict(rule="gsam", rho_min=0.6, rho_max=0.5), "optim.rho_min=0.6 is above optim.rho_max=0.5"),
        (dict(rule="gsam", rho_min=0.1, rho_max=0.5), "make_rule needs total_steps"),
        (dict(rule="sam", groups=3), "optim.groups=3 does not divide the 16 examples of a batch"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(config, message):
    with pytest.raises(ConfigError) as error:
        rule_gradient(**config)
    assert message in str(error.value)


def test_groups_that_fit_neither_the_shards_nor_the_batch_are_an_error():
    with jax.set_mesh(mesh_of(8, 1, 1)), pytest.raises(ConfigError, match="take a multiple of 8 groups, or groups of a multiple of 8 examples"):
        rule_gradient(rule="sam", groups=4)
