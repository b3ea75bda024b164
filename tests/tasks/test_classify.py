import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ConfigError
from jaxvision.tasks.classify import LOSSES, Classify


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
