import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.nn.bilinear_ratio import enlarge, shrink


@pytest.mark.parametrize("function, factor", [(enlarge, 2), (enlarge, 4), (shrink, 2), (shrink, 4), (shrink, 1)])
def test_whole_factors_give_what_antialiased_bilinear_resizing_gives(function, factor):
    x = np.random.RandomState(0).standard_normal((2, 12, 8, 3)).astype(np.float32)
    ours = function(jnp.asarray(x), factor)
    theirs = jax.image.resize(x, (2, *ours.shape[1:3], 3), "bilinear")
    assert ours.shape[1] == (12 * factor if function is enlarge else 12 // factor)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_side_that_does_not_divide_is_one_line():
    with pytest.raises(ModelError, match="a map of 6x8 does not shrink to one in 4"):
        shrink(jnp.zeros((1, 6, 8, 1)), 4)
