"""Paper 01 on drawn mouths: cross entropy first, then equal steps of it alone, of the plain policy gradient beside it, and of windows of three steps.

Seen with two seeds, character errors of 256 clips: 0.522 and 0.481 before; 0.449 and 0.423 after cross entropy alone; 0.560 and 0.547 with the plain
policy gradient; 0.489 and 0.465 with windows. So windows undo most of what the policy's noise costs, and at this length cross entropy alone is ahead
of both; the paper begins with the policy when cross entropy has converged. The gradient's noise over its mean, at this reader, is not lower (3.3 and
3.3 against 3.5 and 3.7); where all steps are free, in tests/tasks/test_pcpg.py, it is.

Pending although what is asserted was seen twice: a policy of no weight at all would pass too, cross entropy alone being ahead. Windows have to be
compared with a plain policy gradient of equal size before this says anything of the paper.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.data import open_source
from jaxvision.tasks import make_task
from jaxvision.tasks.base import Problem
from jaxvision.train.config import complete

BATCH, FIRST, THEN = 32, 300, 120
CONFIG = {
    "steps": FIRST,
    "batch_size": BATCH,
    "image_size": (24, 16, 16),
    "model": {
        **{"name": "lipreader_lrw", "hidden": 64, "layers": 1, "embed": 16, "front": (3, 5, 5), "depths": (1, 1), "widths": (8, 16)},
        **{"frame_dropout": 0.2, "dropout": 0.1},
    },
    "data": {
        **{"source": "lips", "size": (24, 16, 16), "count": 1024, "difficulty": 0.5, "text_length": 9, "mean": (0.5,), "std": (0.25,)},
        "crop": "none",
    },
    "augment": {"repeat": 0.05, "pad_crop": 1},
    "task": {"name": "pcpg", "weight": 0.0, "forcing": 0.9},
    "optim": {"name": "adam", "lr": 3e-3, "schedule": "cosine", "clip": 1.0},
}
# Of the second part.
RUNS = {"cross entropy": {"weight": 0.0}, "window 1": {"window": 1}, "window 3": {"window": 3}}


def make(source, **changes):
    config = complete({**CONFIG, **changes})
    return make_task(config, Problem(source.classes, 1, len(source), config.steps, len(source) / BATCH))


def train(task, state, source, seed):
    step, random, metrics = jax.jit(task.train_step, donate_argnums=0), np.random.RandomState(seed), {}
    for _ in range(task.config.steps):
        rows = random.randint(0, len(source), BATCH)
        batch = {name: values[rows] for name, values in source.columns.items()}
        state, metrics = step(state, {**batch, "index": rows.astype(np.int32), "valid": np.ones(BATCH, bool)})
    return state, {name: float(value) for name, value in metrics.items()}


def whole(source):
    return {**source.columns, "index": np.arange(len(source), dtype=np.int32), "valid": np.ones(len(source), bool)}


def noise(task, state, source, count=400):
    """(deviation of the gradient's estimate over the length of its mean, that mean) of the decoder, over samples of the texts of 16 fixed clips, with
    returns as they are: standardized, they have no mean that a window could keep."""
    batch = task.prepare({name: values[:16] for name, values in whole(source).items()}, state.key, train=False)
    variables, target = task.variables(state), batch["text"][:, 1:]
    memory = task.model.apply(variables, batch["clip"], batch["length"], method="encode")

    def gradient(key):
        def loss(decoder):
            params = {**variables["params"], "decoder": decoder}
            written = task.model.apply({**variables, "params": params}, method=lambda m: m.decoder(*memory, target.shape[1], sample=key))
            return task.policy(written.log_probs, written.symbols, target)[0].mean()

        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(jax.grad(loss)(variables["params"]["decoder"]))])

    samples = np.asarray(jax.jit(lambda keys: jax.lax.map(gradient, keys))(jax.random.split(jax.random.key(7), count)))
    mean = samples.mean(0)
    return np.sqrt(samples.var(0, ddof=1).sum()) / np.linalg.norm(mean), mean


@pytest.mark.pending
@pytest.mark.timeout(300)
def test_windows_over_time_leave_fewer_errors_than_the_plain_policy_gradient(seed=0):
    source, test = (open_source(complete(CONFIG).data, split, seed=seed) for split in ("train", "test"))
    first = make(source)
    shapes = {name: jax.ShapeDtypeStruct((BATCH, *values.shape[1:]), values.dtype) for name, values in source.columns.items()}
    state, _ = train(first, jax.jit(lambda: first.init(jax.random.key(seed), shapes, {}))(), source, seed)
    judge, examples = jax.jit(first.eval_step), whole(test)
    cer = lambda state: {name: float(total / count) for name, (total, count) in judge(state, examples)[0].items()}
    before, found, spread = cer(state), {}, {}
    given = {"params": state.params, "extra": {"batch_stats": state.extra["batch_stats"]}}
    for name, settings in RUNS.items():
        then = make(source, steps=THEN, task={**CONFIG["task"], "weight": 0.5, **settings}, optim={**CONFIG["optim"], "lr": 1e-3})
        begun = jax.jit(lambda given, then=then: then.init(jax.random.key(seed + 1), shapes, given))(given)
        if then.weight[0]:
            spread[name] = noise(make(source, task={**CONFIG["task"], **settings, "weight": 0.5, "standardize": False}), begun, source)
        found[name] = cer(train(then, begun, source, seed + 1)[0])
    plain = spread["window 1"][1]
    cosine = {name: float(plain @ mean / np.linalg.norm(plain) / np.linalg.norm(mean)) for name, (_, mean) in spread.items()}
    print(f"before: {before}")
    for name, figures in found.items():
        extra = f", noise / mean {spread[name][0]:.2f}, cosine {cosine[name]:.3f}" if name in spread else ""
        print(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in figures.items()) + extra)
    assert found["window 3"]["cer"] < 0.95 * found["window 1"]["cer"]
