"""Pseudo-convolutional policy gradient (Luo et al. 2020, "Pseudo-Convolutional Policy Gradient for Sequence-to-Sequence Lip-Reading", 2003.03983).

The network writes a text by its own symbols; at each step its reward is by how much the text so far comes nearer to the truth in edit distance. A
window slides over the time axis of returns and of -log p alike, and the loss is the sum over its places of (mean return) x (mean -log p), so that the
steps under a window are credited together. It is added to the cross entropy.

What we could not read in the paper is ours, after the first author's baselines where they have it: returns are discounted by 0.95, divided by the
length of the truth and standardized within each text; windows of 3 steps, 1 apart, without padding; both losses weigh one half. Different from the
baselines: steps behind the end that a network wrote count nowhere (there they enter the mean and the deviation), and symbols are drawn (there the
most probable is taken, which `choose="best"` gives). Frames are encoded once for both losses.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvision.errors import ConfigError, nearest
from jaxvision.tasks.base import weighted_mean
from jaxvision.tasks.text.distance import prefix_distances, text_of, until_end
from jaxvision.tasks.text.transcribe import Transcribe

EPSILON = 1.1920929e-07  # of float32, beside the deviation of the returns
CHOICES = ("sample", "best")


class Reward(NamedTuple):
    """Of texts that a network wrote.

    Attributes:
      steps: what each symbol brought nearer to the truth, in characters; they sum to the truth's length - the distance of the whole text.
      valid: steps up to the end that was written, which is included.
      length: characters of the truth.
    """

    steps: Float[Array, "b l"]
    valid: Bool[Array, "b l"]
    length: Int[Array, "b"]


def rewards(symbols: Int[Array, "b l"], truth: Int[Array, "b m"]) -> Reward:
    """The rewards of rows of symbols, see tasks/text/vocabulary.py."""
    truth = text_of(truth)
    distance = prefix_distances(text_of(symbols), truth)
    return Reward((distance[:, :-1] - distance[:, 1:]).astype(jnp.float32), until_end(symbols), truth.length)


def discounted(reward: Reward, gamma: float) -> Float[Array, "b l"]:
    """Returns R_t = r_t + gamma R_{t+1}, divided by the truth's length; 0 behind the end."""

    def body(later, now):
        total = now + gamma * later
        return total, total

    _, sums = jax.lax.scan(body, jnp.zeros(reward.length.shape), (reward.steps * reward.valid).T, reverse=True)
    return sums.T / jnp.maximum(reward.length, 1)[:, None] * reward.valid


def standardized(returns: Float[Array, "b l"], valid: Bool[Array, "b l"]) -> Float[Array, "b l"]:
    """Minus their mean, over their unbiased deviation, each within its text; 0 behind the end."""
    count = valid.sum(-1, keepdims=True)
    mean = (returns * valid).sum(-1, keepdims=True) / jnp.maximum(count, 1)
    centred = (returns - mean) * valid
    deviation = jnp.sqrt(jnp.square(centred).sum(-1, keepdims=True) / jnp.maximum(count - 1, 1))
    return centred / (deviation + EPSILON)


def windowed(x: Float[Array, "b l"], window: int, stride: int) -> Float[Array, "b j"]:
    """Means over `window` neighbouring steps, `stride` apart; no padding."""
    places = (x.shape[-1] - window) // stride + 1
    return sum(x[:, i : i + stride * (places - 1) + 1 : stride] for i in range(window)) / window


def pseudo_convolution(
    returns: Float[Array, "b l"], nll: Float[Array, "b l"], valid: Bool[Array, "b l"], window: int, stride: int
) -> Float[Array, "b"]:
    """sum over places of the window of (mean of the returns) x (mean of -log p), both 0 where not valid; window 1 is the policy gradient."""
    return (windowed(jax.lax.stop_gradient(returns) * valid, window, stride) * windowed(nll * valid, window, stride)).sum(-1)


class PCPG(Transcribe):
    """Keys of config.task beside those of text/transcribe:

    weight: of the policy's loss, cross entropy has the rest to 1 (0.5); or its first and last value. 0 leaves cross entropy alone.
    window, stride: of the pseudo-convolution, in steps (3, 1); a window of 1 is the plain policy gradient (REINFORCE).
    gamma: by which rewards of later steps are discounted (0.95).
    standardize: the returns within each text (True).
    choose: "sample" draws symbols from their probabilities, "best" takes the most probable ones.
    """

    KEYS = (*Transcribe.KEYS, "weight", "window", "stride", "gamma", "standardize", "choose")

    def __init__(self, config, problem):
        get = config.task.get
        self.weight = self.ramp("weight", get("weight", 0.5))
        self.window, self.stride, self.gamma = get("window", 3), get("stride", 1), get("gamma", 0.95)
        steps = config.data.text_length - 1
        if not (isinstance(self.window, int) and 1 <= self.window <= steps and isinstance(self.stride, int) and 1 <= self.stride):
            raise ConfigError(f"task.window={self.window} and task.stride={self.stride} are steps, at least 1; a text has {steps}")
        if not 0 <= self.gamma <= 1:
            raise ConfigError(f"task.gamma={self.gamma} discounts rewards: 0..1")
        self.standardize, self.choose = get("standardize", True), get("choose", "sample")
        if self.choose not in CHOICES:
            raise ConfigError(f"task.choose {self.choose!r} is unknown; {nearest(self.choose, CHOICES)}")
        super().__init__(config, problem)

    def policy(self, log_probs: Float[Array, "b l k"], symbols: Int[Array, "b l"], truth: Int[Array, "b m"]) -> tuple[Float[Array, "b"], Reward]:
        """(loss of each text, its rewards) of symbols with their log-probabilities."""
        reward = rewards(symbols, truth)
        returns = discounted(reward, self.gamma)
        if self.standardize:
            returns = standardized(returns, reward.valid)
        nll = -jnp.take_along_axis(log_probs, symbols[..., None], axis=-1)[..., 0]
        return pseudo_convolution(returns, nll, reward.valid, self.window, self.stride), reward

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        if self.weight == (0.0, 0.0):
            return super().loss(params, extra, frozen, batch, key, static=static, train=train)
        dropout, forcing, draw = jax.random.split(key, 3)
        target = batch["text"][:, 1:]
        taught = self.taught(forcing, target.shape[1], extra["step"])
        (forced, free), new = self.model.apply(
            self.variables_of(params, extra), batch["clip"], batch["length"], target, taught, draw if self.choose == "sample" else None,
            train=True, rngs={"dropout": dropout}, mutable=["batch_stats"], method="taught_and_free",
        )  # fmt: skip
        entropy = weighted_mean(self.cross_entropy(forced.log_probs, target), batch["weight"])
        per_text, reward = self.policy(free.log_probs, free.symbols, target)
        policy, weight = weighted_mean(per_text, batch["weight"]), self.now(self.weight, extra["step"])
        gained = weighted_mean(reward.steps.sum(-1) / jnp.maximum(reward.length, 1), batch["weight"])
        metrics = {"cross_entropy": entropy, "policy": policy, "reward": gained}
        return (1 - weight) * entropy + weight * policy, {"metrics": metrics, "extra": dict(new)}


TASK = PCPG
