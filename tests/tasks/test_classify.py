import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvision.errors import ConfigError
from jaxvision.tasks.classify import LOSSES, Classify, sigmoid_loss


class TwoHeads(nn.Module):
    sows: bool = True

    @nn.compact
    def __call__(self, x, *, train):
        if self.sows:
            self.sow("auxiliary", "logits", 2 * x)
        return x


def loss(model, weight):
    task = Classify.__new__(Classify)
    task.model, task.auxiliary, task.per_example_loss = model, weight, LOSSES["softmax"]
    batch = {"image": jnp.asarray([[0.0, 1.0], [2.0, 0.0]]), "target": jnp.asarray([[0.0, 1.0], [0.0, 1.0]]), "weight": jnp.ones(2)}
    return task.loss({}, {}, {}, batch, jax.random.key(0), static=None, train=True)


def test_auxiliary_logits_add_their_loss_by_its_weight_and_are_not_carried_along():
    value, parts = loss(TwoHeads(), 0.4)
    first, second = (np.log1p(np.exp(np.asarray([-1.0, 2.0]) * scale)).mean() for scale in (1, 2))
    np.testing.assert_allclose(value, first + 0.4 * second, rtol=1e-6)
    assert "auxiliary" not in parts["extra"]
    np.testing.assert_allclose(loss(TwoHeads(), 0.0)[0], first, rtol=1e-6)


def test_a_weight_without_auxiliary_logits_is_refused():
    with pytest.raises(ConfigError, match=r"set model\.auxiliary=True, or task\.auxiliary=0"):
        loss(TwoHeads(sows=False), 0.4)


def test_weights_of_presence_multiply_the_part_of_a_class_that_is_there():
    logits, target = jnp.asarray([[0.3, -1.2, 2.0]]), jnp.asarray([[1.0, 0.0, 1.0]])
    plain = optax.sigmoid_binary_cross_entropy(logits, target)[0]
    np.testing.assert_allclose(sigmoid_loss(logits, target), plain.sum(), rtol=1e-6)
    weighted = sigmoid_loss(logits, target, np.asarray([20.0, 7.0, 0.5]))
    np.testing.assert_allclose(weighted, 20 * plain[0] + plain[1] + 0.5 * plain[2], rtol=1e-6)
