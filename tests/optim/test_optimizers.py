import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvision.errors import ConfigError
from jaxvision.optim import make_optimizer
from jaxvision.optim.optimizers import OPTIMIZERS, decay_mask
from jaxvision.trees import named_leaves

RUN = dict(total_steps=20, steps_per_epoch=10, batch_size=8)
SHAPES = {
    "cls_token": (1, 1, 4),
    "pos_embed": (1, 5, 4),
    "patch_embed": {"kernel": (2, 2, 3, 4), "bias": (4,)},
    "blocks_0": {"attn": {"qkv": {"kernel": (4, 12), "bias": (3, 4)}}, "norm1": {"scale": (4,), "bias": (4,)}},
    "blocks_1": {"attn": {"qkv": {"kernel": (4, 12), "bias": (3, 4)}}, "norm1": {"scale": (4,), "bias": (4,)}},
    "norm": {"scale": (4,), "bias": (4,)},
    "head": {"kernel": (4, 2), "bias": (2,)},
}
DECAYED = {"patch_embed/kernel", "blocks_0/attn/qkv/kernel", "blocks_1/attn/qkv/kernel", "head/kernel"}


def tree(seed):
    random = np.random.RandomState(seed)
    fill = lambda shape: jnp.asarray(random.standard_normal(shape), jnp.float32)
    return jax.tree.map(fill, SHAPES, is_leaf=lambda x: isinstance(x, tuple))


def few(seed):
    """A smaller tree, for what has nothing to do with names."""
    return {name: tree(seed)[name] for name in ("patch_embed", "pos_embed")}


def run(transform, tree=tree):
    """Parameters after three updates with fixed random gradients."""
    params = tree(0)
    state = transform.init(params)
    update = jax.jit(transform.update)
    for step in range(3):
        updates, state = update(tree(step + 1), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def make(**config):
    return make_optimizer({"schedule": "constant", "lr": 0.1, **config}, **RUN)


def close(a, b, rtol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-7), a, b)


RATE = optax.constant_schedule(0.1)
MASK = lambda params: decay_mask(params)
OPTAX = {
    "adamw": lambda: optax.adamw(RATE, weight_decay=0.3, mask=MASK),
    "nadamw": lambda: optax.nadamw(RATE, weight_decay=0.3, mask=MASK),
    "adan": lambda: optax.adan(RATE, eps_root=0.0, weight_decay=0.3, mask=MASK),
    "lamb": lambda: optax.lamb(RATE, weight_decay=0.3, mask=MASK),
    "lion": lambda: optax.lion(RATE, weight_decay=0.3, mask=MASK),
}


@pytest.mark.parametrize("name", OPTAX)
def test_optimizers_with_decay_are_optax_ones(name):
    close(run(make(name=name, weight_decay=0.3), few)[0], run(OPTAX[name](), few)[0])


WITHOUT_DECAY = {
    "adam": lambda: optax.adam(RATE),
    "adabelief": lambda: optax.adabelief(RATE),
    "adagrad": lambda: optax.adagrad(RATE),
    "amsgrad": lambda: optax.amsgrad(RATE),
    "radam": lambda: optax.radam(RATE),
    "sgd": lambda: optax.sgd(RATE),
    "momentum": lambda: optax.sgd(RATE, 0.9),
    "nesterov": lambda: optax.sgd(RATE, 0.9, nesterov=True),
    "rmsprop": lambda: optax.rmsprop(RATE, decay=0.99, eps_in_sqrt=False),
    "rmsprop_tf": lambda: optax.rmsprop(RATE, decay=0.9, eps=1e-3, initial_scale=1.0, momentum=0.9),
    "adafactor": lambda: optax.adafactor(RATE, multiply_by_parameter_scale=False),
    "lars": lambda: optax.lars(RATE, trust_ratio_mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)),
}


@pytest.mark.parametrize("name", WITHOUT_DECAY)
def test_optimizers_without_decay_are_optax_ones(name):
    close(run(make(name=name), few)[0], run(WITHOUT_DECAY[name](), few)[0])


def test_every_optimizer_is_compared_with_optax_or_by_hand():
    assert set(OPTAX) | set(WITHOUT_DECAY) | {"larc"} == set(OPTIMIZERS)


def test_larc_is_what_apex_computes_and_leaves_still_gradients_alone():
    params, velocity = tree(0), jax.tree.map(np.zeros_like, tree(0))
    norm = lambda x: np.linalg.norm(np.asarray(x, np.float64))
    for step in range(3):
        share = lambda p, g: 0.02 * norm(p) / (norm(g) + 0.3 * norm(p) + 1e-8)
        velocity = jax.tree.map(lambda v, p, g, share=share: 0.9 * v + (g + 0.3 * p) * share(p, g), velocity, params, tree(step + 1))
        params = jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity)
    larc = make(name="larc", trust=0.02, weight_decay=0.3, no_decay=(), decay_1d=True)
    close(run(larc)[0], params, rtol=1e-5)
    zero = jax.tree.map(jnp.zeros_like, tree(0))
    updates, _ = larc.update(zero, larc.init(tree(0)), tree(0))
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(updates))


def test_weight_decay_follows_half_a_cosine_to_its_end():
    params, zero = tree(0), jax.tree.map(jnp.zeros_like, tree(0))
    transform = make(name="sgd", weight_decay=0.04, weight_decay_end=0.4, decay_1d=True, no_decay=())
    state, shares = transform.init(params), []
    for _ in range(RUN["total_steps"] + 1):
        updates, state = transform.update(zero, state, params)
        shares.append(float(-10 * updates["cls_token"].sum() / params["cls_token"].sum()))
    cosine = [0.4 - 0.18 * (1 + np.cos(np.pi * step / RUN["total_steps"])) for step in range(RUN["total_steps"] + 1)]
    np.testing.assert_allclose(shares, cosine, rtol=1e-5)


def test_decay_spares_biases_norms_positions_and_tokens():
    mask = named_leaves(decay_mask(tree(0)))
    assert {name for name, decays in mask.items() if decays} == DECAYED


def test_decay_spares_stacked_leaves_as_it_spares_them_apart():
    stacked = {"blocks": {"layer_scale": {"gamma": jnp.ones((12, 4))}, "fc": {"kernel": jnp.ones((12, 4, 4))}}}
    assert named_leaves(decay_mask(stacked)) == {"blocks/layer_scale/gamma": False, "blocks/fc/kernel": True}


def test_no_decay_replaces_the_patterns_and_decay_1d_lifts_the_rule_of_one_axis():
    grown = {name for name, decays in named_leaves(decay_mask(tree(0), (), True)).items() if decays}
    assert grown == set(named_leaves(tree(0)))
    config = dict(name="sgd", weight_decay=0.5, no_decay=("head", "pos_embed"), decay_1d=True)
    zero = jax.tree.map(jnp.zeros_like, tree(0))
    transform = make(**config)
    updates, _ = transform.update(zero, transform.init(tree(0)), tree(0))
    expected = {name: 0 * leaf if "head" in name or "pos_embed" in name else -0.05 * leaf for name, leaf in named_leaves(tree(0)).items()}
    close(named_leaves(updates), expected)


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"lamb", "larc", "lars"}))
def test_decoupled_decay_is_times_the_learning_rate_of_the_step_and_past_the_optimizer(name):
    config = dict(name=name, schedule="linear", lr=0.1)
    params = tree(0)
    with_decay, without = (make(weight_decay=amount, **config) for amount in (0.3, 0.0))
    states = with_decay.init(params), without.init(params)
    for step in range(2):
        a, state_a = with_decay.update(tree(step + 1), states[0], params)
        b, state_b = without.update(tree(step + 1), states[1], params)
        states = state_a, state_b
        for leaf, x, y in zip(named_leaves(params).items(), jax.tree.leaves(a), jax.tree.leaves(b)):
            expected = -0.1 * (1 - step / 20) * 0.3 * leaf[1] if leaf[0] in DECAYED else 0
            np.testing.assert_allclose(x - y, jnp.broadcast_to(expected, x.shape), rtol=1e-4, atol=1e-5)


def test_l2_decay_joins_the_gradient_before_momentum_as_in_pytorch():
    params, velocity = tree(0), jax.tree.map(jnp.zeros_like, tree(0))
    decays = decay_mask(params)
    for step in range(3):
        gradient = jax.tree.map(lambda g, w, d: g + 0.3 * w * d, tree(step + 1), params, decays)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
        params = jax.tree.map(lambda w, v: w - 0.1 * v, params, velocity)
    close(run(make(name="momentum", weight_decay=0.3, decay="l2"))[0], params, rtol=1e-5)


def test_layer_decay_scales_each_leafs_whole_update():
    plain, scaled = make(name="adamw", weight_decay=0.3), make(name="adamw", weight_decay=0.3, layer_decay=0.5)
    shares = {"cls_token": 1 / 8, "pos_embed": 1 / 8, "patch_embed": 1 / 8, "blocks_0": 1 / 4, "blocks_1": 1 / 2, "norm": 1.0, "head": 1.0}
    for name, update in named_leaves(run_once(scaled)).items():
        np.testing.assert_allclose(update, shares[name.split("/")[0]] * named_leaves(run_once(plain))[name], rtol=1e-6)


def run_once(transform):
    params = tree(0)
    return transform.update(tree(1), transform.init(params), params)[0]


def test_frozen_leaves_get_no_update_and_no_slots_and_the_rest_is_unchanged_by_that():
    freeze = ("^patch_embed/", "^blocks_0/")
    frozen, state = run(make(name="adamw", weight_decay=0.3, layer_decay=0.5, freeze=freeze))
    free, _ = run(make(name="adamw", weight_decay=0.3, layer_decay=0.5))
    still = {name for name in named_leaves(frozen) if name.startswith(("patch_embed/", "blocks_0/"))}
    for name, leaf in named_leaves(frozen).items():
        np.testing.assert_array_equal(leaf, named_leaves(tree(0))[name] if name in still else named_leaves(free)[name])
    moving = sum(leaf.size for name, leaf in named_leaves(tree(0)).items() if name not in still)
    assert sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim) == 2 * moving


def test_first_moments_can_be_kept_in_bfloat16():
    _, state = run(make(name="adamw", mu_dtype="bfloat16"))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state) if leaf.ndim} == {"bfloat16", "float32"}


@pytest.mark.parametrize(
    "config, message",
    [
        (dict(name="adamwx"), "optim.name='adamwx' is unknown; did you mean"),
        (dict(weight_decy=0.1), "config key 'optim.weight_decy' is unknown; did you mean 'weight_decay'"),
        (dict(weight_decay=-0.1), "optim.weight_decay takes a number of at least 0"),
        (dict(decay="coupled"), "optim.decay='coupled' is unknown"),
        (dict(layer_decay=1.5), "optim.layer_decay takes a number above 0 and at most 1"),
        (dict(freeze=("patch_embd/kernel",)), "optim.freeze: 'patch_embd/kernel' finds no parameter; did you mean 'patch_embed/kernel'"),
        (dict(freeze=("(",)), "optim.freeze: '(' is not a regular expression"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(config, message):
    with pytest.raises(ConfigError) as error:
        make(**config).init(tree(0))
    assert message in str(error.value)
