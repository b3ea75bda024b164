"""Optimizers by name: optax's, with masks by leaf name.

An update is: gradient (plus w weight_decay where `decay` is "l2") -> the optimizer's own direction -> plus w weight_decay on leaves that decay
-> times -lr(step) -> times the leaf's layer-wise share. Decay is decoupled by default (Loshchilov and Hutter 2019, arXiv 1711.05101) and times
the learning rate, for every optimizer. Frozen leaves get no update and no slots. Clipping and averaging are the task's.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxvision.errors import ConfigError, nearest
from jaxvision.optim.layers import is_frozen, is_stacked, layer_shares
from jaxvision.optim.schedules import make_schedule
from jaxvision.optim.settings import check_keys, choose, number, patterns, setting
from jaxvision.trees import map_named, named_leaves

# Beside leaves of one axis: biases of several (heads, dim), and tables of tokens and positions, as timm leaves them out.
NO_DECAY = (
    r"(^|/)bias$",
    r"norm[^/]*/(scale|bias)$",
    r"(^|/)(pos_embed|pos_embedding|position_embedding|absolute_pos_embed)[^/]*(/|$)",
    r"(^|/)(cls|cls_token|dist_token|reg_token|mask_token|register_tokens)$",
    r"relative_position_bias_table$",
)


class Parts(NamedTuple):
    """What an optimizer is put together from: the section, adding w weight_decay, multiplying by -lr, and adding -lr w weight_decay at once."""

    config: Mapping[str, Any]
    decay: optax.GradientTransformation
    scale: optax.GradientTransformation
    decay_times_lr: optax.GradientTransformation

    def get(self, key: str, default: Any = None) -> Any:
        return setting(self.config, key, default)


def _adam(parts: Parts, *, eps: float = 1e-8, nesterov: bool = False) -> optax.GradientTransformation:
    return optax.scale_by_adam(
        parts.get("b1", 0.9), parts.get("b2", 0.999), parts.get("eps", eps), mu_dtype=parts.get("mu_dtype"), nesterov=nesterov
    )


def adamw(parts: Parts) -> optax.GradientTransformation:
    return optax.chain(_adam(parts), parts.decay, parts.scale)


def nadamw(parts: Parts) -> optax.GradientTransformation:
    return optax.chain(_adam(parts, nesterov=True), parts.decay, parts.scale)


def amsgrad(parts: Parts) -> optax.GradientTransformation:
    direction = optax.scale_by_amsgrad(parts.get("b1", 0.9), parts.get("b2", 0.999), parts.get("eps", 1e-8), mu_dtype=parts.get("mu_dtype"))
    return optax.chain(direction, parts.decay, parts.scale)


def radam(parts: Parts) -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_radam(parts.get("b1", 0.9), parts.get("b2", 0.999), parts.get("eps", 1e-8)), parts.decay, parts.scale)


def adabelief(parts: Parts) -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_belief(parts.get("b1", 0.9), parts.get("b2", 0.999), parts.get("eps", 1e-16)), parts.decay, parts.scale)


def adan(parts: Parts) -> optax.GradientTransformation:
    """Xie et al. 2022, arXiv 2208.06677; b1, b2, b3 are shares kept, as everywhere here; eps stands outside the root alone, as published."""
    direction = optax.scale_by_adan(parts.get("b1", 0.98), parts.get("b2", 0.92), parts.get("b3", 0.99), parts.get("eps", 1e-8))
    return optax.chain(direction, parts.decay, parts.scale)


def lamb(parts: Parts) -> optax.GradientTransformation:
    """You et al. 2020, arXiv 1904.00962: the trust ratio is of the direction with its decay."""
    return optax.chain(_adam(parts, eps=1e-6), parts.decay, optax.scale_by_trust_ratio(), parts.scale)


def lars(parts: Parts) -> optax.GradientTransformation:
    """You et al. 2017, arXiv 1708.03888; leaves of one axis are not rescaled, and momentum comes after the learning rate."""
    several_axes = lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree)
    trust = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=parts.get("trust", 0.001)), several_axes)
    return optax.chain(parts.decay, trust, parts.scale, optax.trace(parts.get("momentum", 0.9)))


def larc(parts: Parts) -> optax.GradientTransformation:
    """LARS as NVIDIA's apex has it with `clip=False`, and SwAV and vissl use it: trust |p| / (|g| + |w p| + eps) times g + w p, then momentum.

    Leaves of one axis are rescaled too; one without a norm or without a gradient keeps its gradient, undecayed.
    """
    trust, eps = parts.get("trust", 0.001), parts.get("eps", 1e-8)

    def update(grads, state, params):
        decays, state = parts.decay.update(jax.tree.map(jnp.zeros_like, grads), state, params)

        def rescale(p, g, decay):
            of_p, of_g, of_decay = (jnp.linalg.norm(leaf.astype(jnp.float32)) for leaf in (p.ravel(), g.ravel(), decay.ravel()))
            return jnp.where((of_p > 0) & (of_g > 0), (g + decay) * (trust * of_p / (of_g + of_decay + eps)), g).astype(g.dtype)

        return jax.tree.map(rescale, params, grads, decays), state

    rescaled = optax.GradientTransformation(parts.decay.init, update)
    return optax.chain(rescaled, optax.trace(parts.get("momentum", 0.9), accumulator_dtype=parts.get("mu_dtype")), parts.scale)


def lion(parts: Parts) -> optax.GradientTransformation:
    """Chen et al. 2023, arXiv 2302.06675."""
    direction = optax.scale_by_lion(parts.get("b1", 0.9), parts.get("b2", 0.99), mu_dtype=parts.get("mu_dtype"))
    return optax.chain(direction, parts.decay, parts.scale)


def adafactor(parts: Parts) -> optax.GradientTransformation:
    """Shazeer and Stern 2018, arXiv 1804.04235. Updates are not multiplied by the parameter's size, and momentum is `momentum`, by default none."""
    steps = [optax.scale_by_factored_rms(decay_rate=parts.get("b2", 0.8), epsilon=parts.get("eps", 1e-30))]
    if parts.get("clip_rms"):
        steps.append(optax.clip_by_block_rms(parts.get("clip_rms")))
    if parts.get("scale_by_parameter"):
        steps.append(optax.scale_by_param_block_rms())
    if parts.get("momentum"):
        steps.append(optax.ema(parts.get("momentum"), debias=False, accumulator_dtype=parts.get("mu_dtype")))
    return optax.chain(*steps, parts.decay, parts.scale)


def rmsprop(parts: Parts) -> optax.GradientTransformation:
    """As PyTorch has it: eps outside the root, second moments from zero, momentum before the learning rate."""
    steps = [optax.scale_by_rms(parts.get("b2", 0.99), parts.get("eps", 1e-8), eps_in_sqrt=False)]
    if parts.get("momentum"):
        steps.append(optax.trace(parts.get("momentum")))
    return optax.chain(*steps, parts.decay, parts.scale)


def rmsprop_tf(parts: Parts) -> optax.GradientTransformation:
    """As TensorFlow has it and EfficientNet and MobileNet were trained: eps inside the root, second moments from one, momentum of lr times it."""
    steps = [optax.scale_by_rms(parts.get("b2", 0.9), parts.get("eps", 1e-3), initial_scale=1.0), parts.scale]
    return optax.chain(*steps, optax.trace(parts.get("momentum", 0.9)), parts.decay_times_lr)


def adagrad(parts: Parts) -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_rss(0.1, parts.get("eps", 1e-7)), parts.decay, parts.scale)


def sgd(parts: Parts) -> optax.GradientTransformation:
    """Plain unless `momentum` is set."""
    steps = [_velocity(parts, parts.get("momentum"))] if parts.get("momentum") else []
    return optax.chain(*steps, parts.decay, parts.scale)


def momentum(parts: Parts) -> optax.GradientTransformation:
    return optax.chain(_velocity(parts, parts.get("momentum", 0.9)), parts.decay, parts.scale)


def _velocity(parts: Parts, momentum: float) -> optax.GradientTransformation:
    """Momentum as PyTorch has it: of every gradient but the first only a share of 1 - `dampening` is added."""
    trace = optax.trace(momentum, accumulator_dtype=parts.get("mu_dtype"))
    if not (share := parts.get("dampening", 0.0)):
        return trace
    later = optax.scale_by_schedule(lambda count: jnp.where(count == 0, 1.0, 1.0 - share))
    return optax.chain(later, trace)


def nesterov(parts: Parts) -> optax.GradientTransformation:
    direction = optax.trace(parts.get("momentum", 0.9), nesterov=True, accumulator_dtype=parts.get("mu_dtype"))
    return optax.chain(direction, parts.decay, parts.scale)


# "adam" and "adamw" differ by what their weight decay was when they were published; here `decay` says that for every optimizer.
OPTIMIZERS: dict[str, Callable[[Parts], optax.GradientTransformation]] = {
    "adabelief": adabelief,
    "adafactor": adafactor,
    "adagrad": adagrad,
    "adam": adamw,
    "adamw": adamw,
    "adan": adan,
    "amsgrad": amsgrad,
    "lamb": lamb,
    "larc": larc,
    "lars": lars,
    "lion": lion,
    "momentum": momentum,
    "nadamw": nadamw,
    "nesterov": nesterov,
    "radam": radam,
    "rmsprop": rmsprop,
    "rmsprop_tf": rmsprop_tf,
    "sgd": sgd,
}


def decay_mask(params: Any, no_decay: tuple[str, ...] = NO_DECAY, decay_1d: bool = False) -> Any:
    """A tree of bools: which leaves decay.

    Not those of at most one axis (unless `decay_1d`; an axis that stacks blocks is none), nor those whose name one of `no_decay` finds.
    """
    large = lambda name, leaf: decay_1d or leaf.ndim - is_stacked(name) > 1
    return map_named(lambda name, leaf: large(name, leaf) and not any(re.search(pattern, name) for pattern in no_decay), params)


def _scale_by_layer(decay: float) -> optax.GradientTransformation:
    def init(params):
        layer_shares(params, decay)  # a network without blocks is an error before the first step
        return optax.EmptyState()

    def update(updates, state, params=None):
        return jax.tree.map(lambda update, share: update * share, updates, layer_shares(updates, decay)), state

    return optax.GradientTransformation(init, update)


def _keep_zeros() -> optax.GradientTransformation:
    """No updates for entries of kernels that are exactly zero."""

    def update(updates, state, params):
        hold = lambda name, update, leaf: update * (leaf != 0) if leaf.ndim > 1 and name.rpartition("/")[2] == "kernel" else update
        return map_named(hold, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _without_frozen(transform: optax.GradientTransformation, freeze: tuple[str, ...]) -> optax.GradientTransformation:
    labels = lambda tree: map_named(lambda name, _: "frozen" if is_frozen(name, freeze) else "trained", tree)
    parted = optax.partition({"trained": transform, "frozen": optax.set_to_zero()}, labels)

    def init(params):
        for pattern in freeze:
            if not any(re.search(pattern, name) for name in named_leaves(params)):
                raise ConfigError(f"optim.freeze: {pattern!r} finds no parameter; {nearest(pattern, named_leaves(params))}")
        return parted.init(params)

    return optax.GradientTransformationExtraArgs(init, parted.update)


def make_optimizer(optim_config: Mapping[str, Any], **run: Any) -> optax.GradientTransformation:
    """The transformation that config.optim asks for; masks, layers and frozen leaves are found by name in the tree that `init` gets.

    `run`: total_steps, steps_per_epoch, batch_size and offset, as make_schedule takes them.

    Raises ConfigError here for an unknown key, optimizer or schedule and values out of range, and in `init` for a `freeze` that finds nothing
    and a `layer_decay` without blocks.
    """
    check_keys(optim_config)
    make = choose(OPTIMIZERS, setting(optim_config, "name"), "name")
    schedule = make_schedule(optim_config, **run)
    weight_decay = number(optim_config, "weight_decay")
    no_decay, freeze = patterns(optim_config, "no_decay", NO_DECAY), patterns(optim_config, "freeze")
    mask = lambda tree: decay_mask(tree, no_decay, bool(setting(optim_config, "decay_1d")))
    decays = bool(weight_decay or setting(optim_config, "weight_decay_end"))
    decay_by = lambda amount: optax.add_decayed_weights(amount, mask) if decays else optax.identity()
    amount = weight_decay
    if setting(optim_config, "weight_decay_end") is not None:
        last = number(optim_config, "weight_decay_end")
        amount = lambda step: last + (weight_decay - last) * optax.cosine_decay_schedule(1.0, run["total_steps"])(step + run.get("offset", 0))
    at = amount if callable(amount) else (lambda step: amount)
    kinds = {
        "decoupled": (optax.identity(), decay_by(amount), decay_by(lambda step: -at(step) * schedule(step))),
        "l2": (decay_by(amount), optax.identity(), optax.identity()),
    }
    before, decay, decay_times_lr = choose(kinds, setting(optim_config, "decay"), "decay")
    transform = optax.chain(before, make(Parts(optim_config, decay, optax.scale_by_learning_rate(schedule), decay_times_lr)))
    if freeze:
        transform = _without_frozen(transform, freeze)
    if setting(optim_config, "keep_zeros"):
        transform = optax.chain(transform, _keep_zeros())
    layer_decay = number(optim_config, "layer_decay")
    if not 0 < layer_decay <= 1:
        raise ConfigError(f"optim.layer_decay takes a number above 0 and at most 1, got {layer_decay:g}")
    # Last, so that layers are counted over all leaves, frozen ones included.
    return optax.chain(transform, _scale_by_layer(layer_decay)) if layer_decay < 1 else transform
