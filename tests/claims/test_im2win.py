"""Paper 30: strips take the memory of the paper's table, less than unrolled windows; the twelve layers agree with XLA's convolution; a network learns
by them. Times are reported and not claimed: the paper's are a CUDA kernel's."""

import functools
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxvision
from jaxvision.kernels.geometry import geometry
from jaxvision.kernels.im2win_conv import im2col, im2win, im2win_conv, of_strips, window_order
from jaxvision.kernels.im2win_conv.bench import LAYERS
from jaxvision.train.config import load_config

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "im2win.py"
HERE = ["--config.mesh.data=1", "--config.writers=('jsonl',)", "--config.compilation_cache="]
pytestmark = [pytest.mark.claim, pytest.mark.timeout(300)]


def layer(number: int, batch: int = 1):
    """Image and filter of a layer of the table, its stride, and where its taps lie."""
    channels, side, features, kernel, stride = LAYERS[number - 1]
    keys = jax.random.split(jax.random.key(number))
    x = jax.random.normal(keys[0], (batch, side, side, channels))
    w = jax.random.normal(keys[1], (kernel, kernel, channels, features)) / (kernel * channels**0.5)
    return x, w, stride, geometry(x, w, stride, 0, 1, 1)


def plain(x, w, stride):
    return lax.conv_general_dilated(x, w, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest")


def test_the_twelve_layers_agree_with_xla_s_convolution_and_four_of_them_in_both_gradients():
    worst = {}
    for number in range(1, 13):
        x, w, stride, _ = layer(number)
        ours = functools.partial(im2win_conv, strides=stride)
        expected, other = plain(x, w, stride), ours(x, w)
        worst[number] = [float(jnp.abs(other - expected).max() / jnp.abs(expected).max())]
        if number in (5, 6, 11, 12):
            theirs, own = (jax.vjp(f, x, w)[1](expected) for f in (functools.partial(plain, stride=stride), ours))
            worst[number] += [float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in zip(own, theirs)]
    print({number: [f"{error:.1e}" for error in errors] for number, errors in worst.items()})
    assert max(max(errors) for errors in worst.values()) < 1e-4


def programs(number: int, batch: int):
    """{form: (compiled program, its arguments)}: by strips, by unrolled windows, and XLA's own. Barriers keep the buffers from being fused away."""
    x, w, stride, where = layer(number, batch)
    strips = lambda x, ordered: of_strips(lax.optimization_barrier(im2win(x, where)), ordered, stride)
    windows = lambda x, matrix: lax.optimization_barrier(im2col(x, where)) @ matrix
    forms = {"im2win": (strips, window_order(w)), "im2col": (windows, w.reshape(-1, w.shape[-1])), "xla": (lambda x, w: plain(x, w, stride), w)}
    return {name: (jax.jit(f).lower(x, w).compile(), (x, w)) for name, (f, w) in forms.items()}


def test_strips_need_less_memory_than_unrolled_windows_by_the_table_s_ratio_at_least():
    found = {}
    for number in (5, 6, 9, 10, 12):
        x, _, _, where = layer(number)
        temporaries = {name: program.memory_analysis().temp_size_in_bytes for name, (program, _) in programs(number, 1).items()}
        ratio = jax.eval_shape(lambda x, where=where: im2win(x, where), x).size / jax.eval_shape(lambda x, where=where: im2col(x, where), x).size
        found[number] = (temporaries["im2win"] / temporaries["im2col"], ratio, temporaries["xla"])
    print({number: f"{seen:.2f} (table {ratio:.2f}), XLA's own {own / 1e6:.2f} MB" for number, (seen, ratio, own) in found.items()})
    # Strips are held once. Unrolled windows may be held twice, before and after their taps are joined.
    for seen, ratio, _ in found.values():
        assert 0.45 * ratio < seen <= 1.05 * ratio


def direct(x, w, stride):
    """Each window by itself: one matrix-vector product an output."""
    kh, kw, channels, features = w.shape
    rows, columns = ((n - k) // stride + 1 for n, k in zip(x.shape[1:3], (kh, kw)))
    matrix = w.reshape(-1, features)

    def one(n, y):
        i, j = n // columns, n % columns
        window = lax.dynamic_slice(x, (0, i * stride, j * stride, 0), (x.shape[0], kh, kw, channels))
        return lax.dynamic_update_slice(y, (window.reshape(x.shape[0], -1) @ matrix)[:, None, None], (0, i, j, 0))

    return lax.fori_loop(0, rows * columns, one, jnp.zeros((x.shape[0], rows, columns, features)))


def test_window_by_window_is_slower_than_unrolled_windows_and_strips_are_reported():
    ratios = {}
    for number in (5, 9, 10, 12):
        x, w, stride, _ = layer(number)
        forms = {**programs(number, 1), "direct": (jax.jit(direct, static_argnums=2).lower(x, w, stride).compile(), (x, w))}
        spent = {name: [] for name in forms}
        for _ in range(25):
            for name, (program, arguments) in forms.items():
                # By the clock: processor time counts threads that wait for work, and unrolled windows use more of them.
                began = time.perf_counter()
                jax.block_until_ready(program(*arguments))
                spent[name].append(time.perf_counter() - began)
        shortest = {name: min(times) for name, times in spent.items()}
        ratios[number] = {name: round(value / shortest["im2col"], 2) for name, value in shortest.items()}
        np.testing.assert_allclose(forms["direct"][0](x, w), plain(x, w, stride), atol=1e-3)
    print("shortest time over im2col's:", ratios)
    assert all(each["direct"] > 1 for each in ratios.values())


def test_a_network_learns_by_strips_what_it_learns_by_the_usual_convolutions(tmp_path):
    reached = {name: jaxvision.fit(load_config(f"{CONFIG}:demo,{name}", HERE), tmp_path / name)["test/accuracy"] for name in ("im2win", "chosen")}
    print(reached)
    assert min(reached.values()) > 0.95 and abs(reached["im2win"] - reached["chosen"]) < 0.015
