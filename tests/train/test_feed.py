import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvision.train import feed


def _batch(rows=8):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (rows, 4, 4, 1), np.uint8),
        "label": np.arange(rows),
        "share": rng.standard_normal((rows, 3)),
        "depth": rng.integers(0, 2**16, (rows, 2), np.uint16),
        "valid": np.arange(rows) % 3 > 0,
        "index": np.arange(rows, dtype=np.int32) * 1_000_003,
    }


def test_small_columns_travel_in_one_array_and_come_back_as_they_were():
    batch = {"a": _batch(8), "b": _batch(4)}
    arrays, layout = feed.pack(batch)
    assert sorted(arrays) == ["packed:4", "packed:8"]
    back = jax.jit(feed.unpack, static_argnums=1)(arrays, layout)
    for part, columns in batch.items():
        for name, value in columns.items():
            np.testing.assert_array_equal(back[part][name], value.astype(feed.NARROW.get(value.dtype.str, value.dtype)))


def test_a_large_column_travels_alone():
    batch = {"image": np.zeros((2, 1024, 1024, 1), np.uint8), "label": np.arange(2)}
    arrays, layout = feed.pack(batch)
    assert sorted(arrays) == ["image", "packed:2"] and [column.name for column in layout] == ["2:label"]


def test_the_feed_shards_rows_and_reports_the_position_after_each_batch():
    class Stream:
        position = 0

        def __iter__(self):
            for _ in range(3):
                self.position += 8
                yield _batch()

    mesh = Mesh(np.asarray(jax.devices()).reshape(4, 2), ("data", "fsdp"))
    sharding = NamedSharding(mesh, P(("data", "fsdp")))
    items = list(feed.Feed(Stream(), sharding))
    assert len(items) == 3 and items[-1].arrays["packed:8"].sharding == sharding
    assert jnp.array_equal(feed.unpack(items[0].arrays, items[0].layout)["label"], jnp.arange(8))


def test_an_error_in_the_stream_is_raised_where_it_happened():
    def stream():
        yield _batch()
        raise ValueError("unreadable")

    mesh = Mesh(np.asarray(jax.devices()[:1]), ("data",))
    items = feed.Feed(stream(), NamedSharding(mesh, P("data")))
    next(items)
    with pytest.raises(ValueError, match="unreadable"):
        next(items)
