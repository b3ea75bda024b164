"""Paper 70, small: InfoNCE's gradients shrink by q as pairs grow closer; without the positive in the denominator they do not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvision.tasks.ssl import contrastive as c


@pytest.mark.claim
@pytest.mark.timeout(60)
def test_the_ratio_of_gradient_norms_is_q():
    """Of embeddings whose pairs grow closer: InfoNCE's gradient falls away with q, the decoupled one's stays."""
    random, rows = np.random.RandomState(0), []
    anchors = random.normal(size=(16, 1, 32))
    for noise in (2.0, 1.0, 0.5, 0.2):
        z = anchors + noise * random.normal(size=(16, 2, 32))
        z = jnp.asarray(z / np.linalg.norm(z, axis=-1, keepdims=True), jnp.float32)
        norms = [float(optax.global_norm(jax.grad(lambda z, f=f: f(c.pairs(z, 0.1)).mean())(z))) for f in (c.info_nce, c.decoupled)]
        rows.append((float(c.coupling(c.pairs(z, 0.1)).mean()), norms[0] / norms[1], norms[1]))
        print({"q": rows[-1][0], "ratio": rows[-1][1], "decoupled": norms[1]})
    q, ratio, decoupled = np.array(rows).T
    assert np.all(np.diff(q) < 0) and np.abs(ratio - q).max() < 0.15
    assert ratio[-1] < 0.1 * ratio[0] and decoupled[-1] > 0.5 * decoupled[0]
