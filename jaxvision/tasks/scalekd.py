"""ScaleKD (Fan et al. 2024, "Strong Vision Transformers Could Be Excellent Teachers", NeurIPS, arXiv 2411.06786).

Cross-attention projectors turn the student's maps into maps of the teacher's grid and width (nn/cross_attention.py). Each is compared in two views,
as it is and without the mean over positions of every channel, which the large mean of a transformer's features would drown out ("dual-view feature
mimicking"; the public code removes the first coefficient of a cosine transform, which is that mean). The student's third stage is compared only
after it went on through the rest of the frozen teacher ("teacher parameter perception"), and what comes out asks the questions of the projectors of
the fourth. At test the student is alone.

Where we differ: a view of weight 0 has no projector (the public code trains one in vain), and the two views pass the teacher's tail together.
Tokens before the patches, which the published teachers have not, come from the teacher's own pass.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision.errors import ConfigError
from jaxvision.kernels.block_resize import repeat_pixels
from jaxvision.nn.cross_attention import CrossAttentionProjector
from jaxvision.nn.projector import unit
from jaxvision.nn.taps import run_watched
from jaxvision.tasks.base import total, weighted_mean
from jaxvision.tasks.distil import STUDENT, TEACHER, Distil, Seen, as_map, as_output, branch_of, squares

VIEWS = ("spatial", "frequency")
SHOWN = 8


def view_of(made: Float[Array, "b h w c"], view: str) -> Float[Array, "b h w c"]:
    """The map in float32; in the view "frequency" without the mean over positions of every channel."""
    made = made.astype(jnp.float32)
    return made - made.mean((1, 2), keepdims=True) if view == "frequency" else made


def likeness(made: Float[Array, "b h w c"], target: Float[Array, "b h w c"], view: str) -> Float[Array, "b h w"]:
    """Cosine of two maps at every position, in a view."""
    return (unit(view_of(made, view)) * unit(view_of(target, view))).sum(-1)


class ScaleKD(Distil):
    """Keys of config.task beside those of "distil":

    student_taps: modules that end the student's third and fourth stage. teacher_taps: the same of the teacher, the first where the student's third
    stage enters it, the second what all is compared with (with the final norm). last_enter: where the fourth stage's projections enter the teacher,
    and the third's leave it ("blocks_10" of a plain transformer of 12 blocks; "" for none, as with Swin).
    alphas: ((spatial, frequency) of the third stage, of the fourth). heads: of the two stages' projectors. sharpness: of their attention.
    perception: without it the third stage is left out, and the fourth asks by queries of its own.
    """

    KEYS = (*Distil.KEYS, "student_taps", "teacher_taps", "last_enter", "alphas", "heads", "sharpness", "perception")

    def __init__(self, config, problem):
        get = config.task.get
        self.last_enter, self.perception, self.sharpness = get("last_enter", ""), bool(get("perception", True)), float(get("sharpness", 5.0))
        pairs = {}
        for key, default in (("student_taps", None), ("teacher_taps", None), ("alphas", ((0.08, 0.06),) * 2), ("heads", (8, 8))):
            pairs[key] = tuple(get(key, default) or ())
            if len(pairs[key]) != 2:
                raise ConfigError(f"task.{key} is one for the third and one for the fourth stage, got {pairs[key]}")
        self.student_taps, self.teacher_taps, self.alphas, self.heads = pairs.values()
        if self.perception and any(last and not first for first, last in zip(*self.alphas, strict=True)):
            raise ConfigError(f"task.alphas {self.alphas}: a view of the fourth stage is asked by the third's, whose weight is 0")
        super().__init__(config, problem)

    @property
    def student_watch(self):
        return (*super().student_watch, *self.student_taps)

    @property
    def teacher_watch(self):
        return (*super().teacher_watch, *self.teacher_taps, *((self.last_enter,) if self.last_enter else ()))

    def views(self, stage: int) -> tuple[tuple[str, float], ...]:
        """(view, weight) of those that count in the third (0) or fourth (1) stage."""
        return tuple((view, alpha) for view, alpha in zip(VIEWS, self.alphas[stage], strict=True) if alpha)

    def adapters(self):
        found = super().adapters()
        student = self.model.student
        types = {"dtype": student.dtype, "param_dtype": student.param_dtype, "norm_groups": getattr(student, "norm_groups", 1)}
        target = self.teacher_shapes.maps[self.teacher_taps[1]]
        enter = self.teacher_shapes.maps[self.last_enter] if self.last_enter else target
        for stage, where in enumerate((self.teacher_shapes.maps[self.teacher_taps[0]], enter)):
            made, (_, *grid, dim) = self.student_shapes.maps[self.student_taps[stage]], where.shape
            asked = stage == 1 and self.perception
            if stage == 0 and not self.perception:
                continue
            module = CrossAttentionProjector(dim, self.heads[stage], None if asked else tuple(grid), self.sharpness, **types)
            for view, _ in self.views(stage):
                found[f"stage{stage + 3}_{view}"] = (module, (made, jax.ShapeDtypeStruct((1, *grid, dim), made.dtype)) if asked else (made,))
        return found

    def tail(self, frozen, teacher: Seen, enter: str, leave: str, made: list[Array]) -> list[Array]:
        """Maps that take the place of the teacher's at `enter`, as they arrive at `leave`; all of them in one pass."""
        like = jnp.concatenate([teacher.outputs[enter]] * len(made))
        entered = as_output(jnp.concatenate(made), like).astype(like.dtype)
        # The picture has as many rows as the maps that replace its features: heads that lie behind them pool both.
        image = jnp.concatenate([teacher.image] * len(made))
        _, seen, _ = run_watched(self.teacher, frozen[TEACHER], image, watch=(leave,), replace={enter: entered}, train=False)
        return jnp.split(as_map(seen[leave], self.teacher, image), len(made))

    def projected(self, adapt, student: Seen, teacher: Seen, frozen) -> dict[str, Array]:
        """{"stage3_spatial": map that is compared with the teacher's last one, …}."""
        (third, fourth), (enter, leave) = self.student_taps, self.teacher_taps
        made: dict[str, Array] = {}
        if self.perception:
            names = [view for view, _ in self.views(0)]
            entering = [adapt(f"stage3_{view}", student.maps[third]) for view in names]
            left = self.tail(frozen, teacher, enter, self.last_enter or leave, entering)
            made |= {f"stage3_{view}": x for view, x in zip(names, left, strict=True)}
        names = [view for view, _ in self.views(1)]
        asked = lambda view: (made[f"stage3_{view}"],) if self.perception else ()
        last = [adapt(f"stage4_{view}", student.maps[fourth], *asked(view)) for view in names]
        if self.last_enter and last:
            last = self.tail(frozen, teacher, self.last_enter, leave, last)
        return made | {f"stage4_{view}": x for view, x in zip(names, last, strict=True)}

    def compare(self, adapt, student, teacher, frozen, weight):
        terms = super().compare(adapt, student, teacher, frozen, weight)
        made, target = self.projected(adapt, student, teacher, frozen), teacher.maps[self.teacher_taps[1]]
        for stage in (0, 1):
            for view, alpha in self.views(stage):
                if (name := f"stage{stage + 3}_{view}") in made:
                    terms[name] = alpha * weighted_mean(squares(view_of(made[name], view), view_of(target, view)), weight)
        return terms

    # --- how near the student's features come to the teacher's on other pictures ---

    def likenesses(self, variables, frozen, image) -> dict[str, Float[Array, "b h w"]]:
        """{"stage3_spatial": cosine at every position, …}, in evaluation."""
        student, _ = self.see(self.model.student, branch_of(variables, STUDENT), image, self.student_watch, train=False)
        teacher = self.teach(frozen, image)
        made = self.projected(self.adapter_of(variables, {}, train=False), student, teacher, frozen)
        target = teacher.maps[self.teacher_taps[1]]
        return {name: likeness(x, target, name.rpartition("_")[2]) for name, x in made.items()}

    def evaluate(self, variables, state, batch):
        """With the teacher, where its source is still there, also how near the student's features come to its own."""
        sums, rows = super().evaluate(variables, state, batch)
        if TEACHER not in state.frozen:
            return sums, rows
        found = self.likenesses(variables, state.frozen, batch["image"])
        return {**sums, **{f"cosine_{name}": total(x.mean((1, 2)), batch["weight"]) for name, x in found.items()}}, rows

    def figures(self, state, batch):
        """The picture, and at every position how near each projection comes to the teacher's map: black is a cosine of 0 or less, white 1."""
        batch = self.prepare(jax.tree.map(lambda leaf: leaf[:SHOWN], dict(batch)), state.key, train=False)
        mean, std = (jnp.asarray(self.constants[key]) for key in ("mean", "std"))
        columns = {"picture": batch["image"] * std + mean}
        for name, cosine in self.likenesses(self.variables(state), state.frozen, batch["image"]).items():
            side = max(1, batch["image"].shape[1] // cosine.shape[1])
            columns[name.replace("_", ", ")] = repeat_pixels(cosine[..., None], side)
        return columns


TASK = ScaleKD
