import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ConfigError
from jaxvision.tasks.pcpg import Reward, discounted, pseudo_convolution, rewards, standardized, windowed
from jaxvision.tasks.text.vocabulary import encode, vocabulary
from tests.reference_weights import relative_error

GOLDEN = np.load(pathlib.Path(__file__).parent.parent / "golden" / "lipreader.npz")
LETTERS = vocabulary("letters")


def rows(*texts, length=10):
    return np.stack([encode(text, LETTERS, length) for text in texts])[:, 1:]


def test_rewards_sum_to_what_the_whole_text_gained():
    reward = rewards(rows("GREAN", "XY", ""), rows("GREEN", "GREEN", "GREEN"))
    assert reward.steps[0].tolist() == [1, 1, 1, 0, 1, 0, 0, 0, 0] and reward.length.tolist() == [5, 5, 5]
    assert reward.steps.sum(-1).tolist() == [4, 0, 0]
    assert reward.valid.sum(-1).tolist() == [6, 3, 1]  # the end is a choice, too


def test_the_plain_policy_s_loss_and_gradient_are_the_published_baseline_s():
    truth = GOLDEN["truth"][:, 1:]

    def loss(logits):
        symbols = logits.argmax(-1)
        reward = rewards(symbols, truth)
        returns = standardized(discounted(reward, 0.95), reward.valid)
        nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), symbols[..., None], -1)[..., 0]
        return pseudo_convolution(returns, nll, reward.valid, 1, 1).sum()

    value, grad = jax.jit(jax.value_and_grad(loss))(GOLDEN["logits"])
    assert value == pytest.approx(float(GOLDEN["policy_loss"]), rel=1e-5)
    assert relative_error(grad, GOLDEN["policy_grad"]) < 1e-5


def plain_pseudo_convolution(returns, nll, valid, window, stride):
    """The paper's two sliding windows, place by place."""
    total = 0.0
    for row in range(returns.shape[0]):
        for start in range(0, returns.shape[1] - window + 1, stride):
            places = [t for t in range(start, start + window) if valid[row, t]]
            total += sum(returns[row, t] for t in places) / window * sum(nll[row, t] for t in places) / window
    return total


@pytest.mark.parametrize("window, stride", [(1, 1), (3, 1), (3, 2), (4, 4), (9, 1)])
def test_windows_and_their_gradient_are_those_of_a_double_loop(window, stride):
    random = np.random.RandomState(window)
    returns, nll = random.standard_normal((3, 9)).astype(np.float32), random.rand(3, 9).astype(np.float32)
    valid = np.arange(9) < np.array([[9], [5], [1]])
    ours = lambda nll: pseudo_convolution(returns, nll, valid, window, stride).sum()
    theirs = lambda nll: plain_pseudo_convolution(returns, nll, valid, window, stride)
    np.testing.assert_allclose(ours(nll), theirs(nll), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(ours)(nll), jax.grad(theirs)(jnp.asarray(nll)), rtol=1e-5, atol=1e-7)
    if window == 1:
        np.testing.assert_allclose(jax.grad(ours)(nll), returns * valid, rtol=1e-6)


def test_nothing_flows_back_through_the_reward():
    slope = jax.grad(lambda scale: pseudo_convolution(scale * jnp.ones((1, 4)), jnp.ones((1, 4)), jnp.ones((1, 4), bool), 2, 1).sum())(2.0)
    assert slope == 0


def test_returns_are_discounted_and_standardized_within_the_text_that_was_written():
    reward = Reward(jnp.array([[1.0, -1.0, 1.0, 5.0]]), jnp.array([[True, True, True, False]]), jnp.array([2]))
    returns = discounted(reward, 0.5)
    np.testing.assert_allclose(returns, [[0.375, -0.25, 0.5, 0]])
    made = np.asarray(standardized(returns, reward.valid))[0]
    assert made[:3].mean() == pytest.approx(0, abs=1e-6) and made[:3].std(ddof=1) == pytest.approx(1, abs=1e-5) and made[3] == 0
    alone = standardized(jnp.array([[0.7, 0.0]]), jnp.array([[True, False]]))
    assert np.isfinite(alone).all()


def toy_gradients(window, samples=4000):
    """Gradients of the logits of eight independent steps over six letters, one a sample, with plain returns of the distance from a fixed text."""
    truth = np.array([[4, 5, 6, 7, 8, 9, 4, 5, 2]])
    logits = 0.5 * jax.random.normal(jax.random.key(0), (1, 8, 6))

    def gradient(key):
        symbols = jax.random.categorical(key, logits)
        returns = discounted(rewards(symbols + 4, truth), 0.95)
        nll = lambda logits: -jnp.take_along_axis(jax.nn.log_softmax(logits), symbols[..., None], -1)[..., 0]
        return jax.grad(lambda logits: pseudo_convolution(returns, nll(logits), jnp.ones((1, 8), bool), window, 1).sum())(logits).ravel()

    return np.asarray(jax.jit(jax.vmap(gradient))(jax.random.split(jax.random.key(1), samples)))


def test_windows_make_the_gradient_s_estimate_less_noisy_and_turn_it_little():
    noise, mean = {}, {}
    for window in (1, 3):
        samples = toy_gradients(window)
        mean[window] = samples.mean(0)
        noise[window] = np.sqrt(samples.var(0).sum()) / np.linalg.norm(mean[window])
    cosine = mean[1] @ mean[3] / np.linalg.norm(mean[1]) / np.linalg.norm(mean[3])
    print(f"noise / mean: {noise}, cosine {cosine:.3f}")
    assert noise[3] < 0.92 * noise[1] and cosine > 0.5


def test_the_mean_of_a_window_has_no_padding():
    np.testing.assert_allclose(windowed(jnp.array([[1.0, 2, 3, 4, 5]]), 3, 2), [[2, 4]])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"window": 9}, "task.window=9 .* a text has 8"),
        ({"choose": "bset"}, "did you mean 'best'"),
        ({"weight": 1.5}, "task.weight=1.5 is a share"),
        ({"windw": 3}, "task.windw is not a key of the task 'pcpg'; did you mean 'window'"),
        ({"beam": 0}, "task.beam=0"),
        ({"metrics": ("blue",)}, "did you mean 'bleu'"),
    ],
)
def test_settings_that_cannot_be_are_one_line(settings, message):
    from jaxvision.tasks import make_task
    from jaxvision.tasks.base import Problem
    from tests.tasks.reading import tiny

    config = tiny(**{f"task__{key}": value for key, value in settings.items()})
    with pytest.raises(ConfigError, match=message):
        make_task(config, Problem(LETTERS, 1, 64, 4, 8.0))
