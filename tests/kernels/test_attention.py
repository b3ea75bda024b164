import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.kernels.attention import attention, op, self_attention, tpu, tpu_flash, tpu_long
from jaxvision.kernels.attention.call import Call


def normal(seed, *shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def worst(ours, theirs):
    """Largest difference as a share of the largest value, over all arrays of two trees."""
    pairs = [(np.asarray(x, np.float32), np.asarray(y, np.float32)) for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)]
    # By numpy, whose largest of numbers with a NaN among them is that NaN.
    return float(np.max([np.abs(x - y).max() / np.abs(y).max() for x, y in pairs]))


@functools.partial(jax.jit, static_argnames=("f", "heads", "implementation", "dropout"))
def maps(f, operands, bias, seed, heads, implementation, dropout=0.0, offset=None):
    """The value and the gradients of everything, for a random cotangent."""

    def run(operands, bias, offset):
        options = dict(implementation=implementation, dropout=dropout, seed=seed if dropout else None)
        return f(*operands, *([heads] if f is self_attention else []), bias, **options, **({} if offset is None else {"offset": offset}))

    y, transposed = jax.vjp(run, operands, bias, offset)
    return y, transposed(normal(9, *y.shape, dtype=jnp.bfloat16).astype(y.dtype))


# (batch, tokens, heads, width), number of biases, dropout
CASES = {
    "tokens of no whole register, heads side by side in one": ((3, 19, 2, 16), 0, 0.0),
    "a last group of fewer heads": ((2, 37, 5, 64), 1, 0.0),
    "windows with biases of their own": ((6, 49, 4, 32), 3, 0.0),
    "a head wider than half a register, a bias an example, dropout": ((2, 21, 2, 80), 2, 0.3),
    "dropout over rounds of windows": ((4, 17, 3, 24), 2, 0.2),
}


EACH = [pytest.param(*case, jnp.float32, 2e-6, id=name) for name, case in CASES.items()]
EACH += [pytest.param(*CASES[name], jnp.bfloat16, 2**-6, id=f"{name}, bfloat16") for name in ("windows with biases of their own",)]


@pytest.mark.parametrize("shape, biases, dropout, dtype, limit", EACH)
def test_the_tpu_kernels_agree_with_the_reference_forward_and_in_all_gradients(shape, biases, dropout, dtype, limit):
    """The reference in float32, of what the kernels are given: bfloat16 has its own rounding, and no more than that."""
    b, t, heads, width = shape
    given = (normal(0, b, t, 3 * heads * width, dtype=dtype),), normal(2, 3 * heads * width, dtype=dtype) if t % 2 else None
    bias, seed = normal(1, biases, heads, t, t) if biases else None, jnp.arange(b, dtype=jnp.uint32) * 77
    (operands, offset), (wide, wide_offset) = given, jax.tree.map(lambda x: x.astype(jnp.float32), given)
    expected = maps(self_attention, wide, bias, seed, heads, "reference", dropout, wide_offset)
    assert worst(maps(self_attention, operands, bias, seed, heads, "tpu", dropout, offset), expected) < limit


LONG = {
    "a block of queries and a part of one, a bias for all, a head's lanes empty": ((2, 145, 3, 64), 1, 0.0),
    "biases and dropout, heads of no power of two, keys in parts": ((4, 131, 2, 24), 2, 0.2),
}


@pytest.mark.parametrize("shape, biases, dropout", LONG.values(), ids=LONG)
def test_the_kernels_for_long_sequences_agree_too(monkeypatch, shape, biases, dropout):
    monkeypatch.setitem(op.IMPLEMENTATIONS, "tpu", (tpu_long,))
    monkeypatch.setattr(tpu_long, "CHUNK", 96)
    b, t, heads, width = shape
    operands, offset = (normal(0, b, t, 3 * heads * width),), normal(2, 3 * heads * width)
    arguments = (self_attention, operands, normal(1, biases, heads, t, t), jnp.arange(b, dtype=jnp.uint32) * 77, heads)
    expected = maps(*arguments, "reference", dropout, offset)
    assert worst(maps(*arguments, "tpu", dropout, offset), expected) < 2e-6


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tokens, heads, width, kernels", [
    (49, 3, 32, (tpu, tpu)), (577, 6, 64, (tpu, tpu_long)), (577, 16, 64, (tpu_long, tpu_long)), (1600, 12, 64, (tpu_long, tpu_long)),
    (4096, 12, 64, (tpu_long, None)), (8192, 12, 64, (tpu_flash, None)), (16, 4, 8, (None, None)), (8, 4, 32, (None, None)),
])  # fmt: skip
def test_what_tpus_take_for_a_sequence(tokens, heads, width, kernels, bias):
    """One of the kernels, or plain XLA code."""
    call = Call(heads, True, False, bias)
    operands = [jax.ShapeDtypeStruct((8, tokens, 3 * heads * width), jnp.bfloat16)]
    operands += [jax.ShapeDtypeStruct((1, heads, tokens, tokens), jnp.float32)] if bias else []
    assert op.kernel_of("tpu", call, operands) is kernels[bias]


def test_few_queries_of_many_keys_are_left_to_the_compiler():
    call = Call(8, False, False, False)
    operands = [jax.ShapeDtypeStruct((4, tokens, 512), jnp.bfloat16) for tokens in (7, 4096, 4096)]
    assert op.kernel_of("tpu", call, operands) is None


def test_queries_and_keys_of_different_numbers():
    operands = (normal(0, 2, 17, 3, 32), normal(1, 2, 23, 3, 32), normal(2, 2, 23, 3, 32))
    arguments = (attention, operands, normal(3, 1, 1, 17, 23), None, 3)
    assert worst(maps(*arguments, "tpu"), maps(*arguments, "reference")) < 2e-6


def test_the_reference_is_softmax_of_scaled_scores():
    q, k, v = normal(0, 2, 5, 2, 4), normal(1, 2, 7, 2, 4), normal(2, 2, 7, 2, 6)
    mask = jnp.arange(7)[None, None, None] < 5
    ours = attention(q, k, v, mask=jnp.broadcast_to(mask, (1, 1, 5, 7)))
    theirs = jax.nn.dot_product_attention(q, k[:, :5], v[:, :5][..., :4]), jax.nn.dot_product_attention(q, k[:, :5], v[:, :5, :, 2:])
    np.testing.assert_allclose(ours, jnp.concatenate([theirs[0], theirs[1][..., 2:]], -1), atol=1e-6)


def test_dropout_keeps_its_share_and_the_mean_and_depends_on_the_seed():
    qkv, seeds = jnp.concatenate([jnp.zeros((2, 64, 64)), jnp.ones((2, 64, 32))], -1), jnp.asarray([1, 2], jnp.uint32)
    y = self_attention(qkv, 2, dropout=0.25, seed=seeds)
    kept = np.asarray(y * 0.75)[:, :, ::16]  # equal weights: the share of the 64 keys that a query keeps
    assert abs(kept.mean() - 0.75) < 0.02 and abs(kept.std() - (0.25 * 0.75 / 64) ** 0.5) < 0.01
    assert not np.allclose(y[0], y[1])
    np.testing.assert_array_equal(y[1:], self_attention(qkv[1:], 2, dropout=0.25, seed=seeds[1:]))


def loss(qkv, bias, implementation=None):
    return jnp.square(jnp.tanh(self_attention(qkv, 2, bias, implementation=implementation))).sum()


class TestDerivatives:
    qkv, bias = normal(0, 4, 6, 24), normal(1, 2, 2, 6, 6)

    def test_hessian_vector_products_forward_over_reverse_and_reverse_over_reverse(self):
        v = normal(2, 4, 6, 24), normal(3, 2, 2, 6, 6)
        gradient = jax.grad(loss, (0, 1))
        product = jax.jit(lambda *x: jax.jvp(gradient, x, v)[1])(self.qkv, self.bias)
        paired = jax.jit(jax.grad(lambda *x: sum(jnp.vdot(g, d) for g, d in zip(gradient(*x), v)), (0, 1)))(self.qkv, self.bias)
        assert worst(product, paired) < 1e-5
        step = 1e-2
        moved = [gradient(*(x + sign * step * d for x, d in zip((self.qkv, self.bias), v))) for sign in (1, -1)]
        assert worst(product, jax.tree.map(lambda a, b: (a - b) / (2 * step), *moved)) < 5e-3

    def test_the_tpu_kernels_have_the_same_hessian_vector_products(self):
        qkv, bias = normal(0, 2, 17, 96), normal(1, 2, 2, 17, 17)

        def product(implementation):
            gradient = jax.grad(lambda x: loss(x, bias, implementation))
            return jax.jit(lambda x: jax.jvp(gradient, (x,), (normal(2, 2, 17, 96),))[1])(qkv)

        assert worst(product("tpu"), product("reference")) < 1e-5

    @pytest.mark.parametrize("own_bias", [False, True])
    def test_gradients_mapped_over_groups_with_shared_and_with_own_biases(self, own_bias):
        qkv, bias = normal(4, 3, 4, 6, 24), normal(5, 3, 2, 2, 6, 6) if own_bias else self.bias
        mapped = jax.jit(jax.vmap(jax.grad(loss, (0, 1)), (0, 0 if own_bias else None)))(qkv, bias)
        single = [jax.grad(loss, (0, 1))(qkv[i], bias[i] if own_bias else bias) for i in range(3)]
        assert worst(mapped, jax.tree.map(lambda *x: jnp.stack(x), *single)) < 1e-5

    def test_gradients_of_mapped_calls_recomputed_and_not(self):
        qkv = normal(4, 3, 4, 6, 24)
        summed = lambda f: jax.jit(jax.grad(lambda x, bias: jax.vmap(f, (0, None))(x, bias).sum(), (0, 1)))(qkv, self.bias)
        single = [jax.grad(loss, (0, 1))(qkv[i], self.bias) for i in range(3)]
        expected = jnp.stack([g[0] for g in single]), sum(g[1] for g in single)
        assert worst(summed(loss), expected) < 1e-5 and worst(summed(jax.checkpoint(loss)), expected) < 1e-5

    def test_on_cpu_a_gradient_computes_the_weights_once(self):
        """The backward pass is written to compute them again; in one program the compiler has to find the forward pass's."""
        text = jax.jit(jax.grad(loss, (0, 1))).lower(self.qkv, self.bias).compile().as_text()
        assert text.count(" exponential(") == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: self_attention(normal(0, 2, 5, 25), 2),
        lambda: self_attention(normal(0, 2, 5, 24), 2, normal(0, 3, 2, 5, 5)),
        lambda: self_attention(normal(0, 2, 5, 24), 2, dropout=0.1),
        lambda: self_attention(normal(0, 2, 5, 24), 2, implementation="gpu"),
        lambda: attention(normal(0, 2, 5, 2, 4), normal(0, 2, 6, 2, 4), normal(0, 2, 5, 2, 4)),
    ],
    ids=["channels", "biases", "seed", "implementation", "values"],
)
def test_what_does_not_fit_is_one_line(call):
    with pytest.raises(ModelError) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_program_is_lowered_for_gpus_and_tpus_on_a_machine_without_either():
    """Each platform gets its own form of one traced call: plain XLA code, and kernels."""
    qkv = jax.ShapeDtypeStruct((2, 50, 96), jnp.bfloat16)
    traced = jax.jit(lambda x: self_attention(x, 1)).trace(qkv)
    text = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda", "tpu")}
    assert "dot_general" in text["cpu"]
    for name, call in (("tpu", "tpu_custom_call"), ("cuda", "xla.gpu.triton")):
        assert call in text[name] and "stablehlo.dot_general" not in text[name]
