"""The phases of a run while it runs: the executables of each, later ones compiled in the background, and the state brought to the next size.

Only leaves that depend on the image size are touched at a boundary: parameters, their optimizer moments and averaged copies, found by path in the
tables of the model file (SIZE_DEPENDENT) and of the task (`Task.size_dependent`), all resized in one small program on the mesh. Tables of positions
are resized bilinearly without antialiasing (PyTorch's `interpolate`, align_corners=False), as EfficientTrain (arXiv 2211.09703) publishes it, also
for the moments; loading foreign weights at another size stays bicubic, as timm has it.
"""

import functools
import inspect
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

import jax

from jaxvision.errors import ModelError
from jaxvision.tasks.base import Task
from jaxvision.tasks.state import TrainState
from jaxvision.train.setup import Executables, Setup, in_phase
from jaxvision.trees import map_named, named_leaves

METHOD = "bilinear_aliased"


class Curriculum:
    """The executables of the phases of a run; a run without phases has one.

    Args:
      setup: of the phase that the run begins or goes on in. All later ones are built at once, so that what does not fit is said before training.

    Raises ConfigError or ModelError: a size that the architecture does not allow, or a leaf that depends on it and that nothing resizes.
    """

    def __init__(self, setup: Setup):
        self.plan, self.number = setup.plan, setup.number
        self._setups: dict[tuple, Setup] = {setup.phase.program: setup}
        self._executables: dict[tuple, Executables] = {}
        self._resizes: dict[tuple, Callable] = {}  # {(program before, program after): what brings the state from one to the other}
        for number in range(setup.number + 1, len(self.plan)):
            if self.plan[number].program not in self._setups:
                self._setups[self.plan[number].program] = in_phase(setup, number)
        for number in range(setup.number + 1, len(self.plan)):
            changed_leaves(self._of(number - 1), self._of(number))
        self._ready: dict[tuple, threading.Event] | None = None
        self._closed = False
        self._failures: list[Exception] = []

    def _of(self, number: int) -> Setup:
        return self._setups[self.plan[number].program]

    @property
    def phase(self):
        return self.plan[self.number]

    @property
    def executables(self) -> Executables:
        """Those of the present phase."""
        return self._built(self.number)

    def _built(self, number: int) -> Executables:
        program = self.plan[number].program
        if program not in self._executables:
            self._executables[program] = Executables(self._setups[program])
        return self._executables[program]

    def compile_ahead(self, eval_every: int) -> None:
        """Starts to compile, in a thread, what later phases need, in their order: at a boundary it is there, or waited for.

        All of them and not the next alone: a phase may be shorter than compiling for the one after it takes.
        """
        if self._ready is not None:
            return
        first = {phase.program: number for number, phase in reversed([*enumerate(self.plan)]) if number > self.number}
        evaluated = {self.plan[-1].program} | {phase.program for phase in self.plan if phase.stop // eval_every > phase.start // eval_every}
        work = [(self._built(first[program]), program) for program in sorted(first, key=first.get) if program not in self._executables]
        self._ready = {program: threading.Event() for _, program in work}

        def compile_all() -> None:
            for executables, program in work:
                before, here = self._of(first[program] - 1), executables.setup
                try:
                    with jax.set_mesh(here.mesh):
                        executables.compile(program in evaluated)
                        if (resize := lower_resize(before, here)) is not None:
                            self._resizes[before.phase.program, program] = resize.compile()
                except Exception as error:  # raised by `check`, on the thread of the run
                    self._failures.append(error)
                self._ready[program].set()
                if self._closed:
                    return

        # A daemon: a run that is stopped has saved and need not wait for a program that nobody will run.
        threading.Thread(target=compile_all, name="compile-ahead", daemon=True).start()

    def check(self) -> None:
        """Raises what compiling the next phase ended with, as soon as it is known rather than at the boundary."""
        if self._failures:
            raise self._failures[0]

    def advance(self, carry: TrainState) -> TrainState:
        """The state for the next phase, which is the present one from here on."""
        if event := (self._ready or {}).get(self.plan[self.number + 1].program):
            event.wait()
        self.check()
        old, new = self._of(self.number), self._of(self.number + 1)
        if new is not old:
            self._built(self.number).close()
        self.number += 1
        return resize_state(carry, old, new, self._resizes.get((old.phase.program, new.phase.program)))

    def close(self) -> None:
        """Ends the worker processes of evaluation, and compiling after the program at hand."""
        self._closed = True
        for executables in self._executables.values():
            executables.close()


def changed_leaves(old: Setup, new: Setup) -> dict[str, jax.ShapeDtypeStruct]:
    """{name: shape before} of the leaves of the state whose shape another phase changes.

    Raises ModelError naming a leaf that no table says how to resize, or that only one of the phases has.
    """
    before, after = (named_leaves(setup.state_shapes.replace(frozen={})) for setup in (old, new))
    sizes = [" to ".join("x".join(map(str, setup.phase.size)) for setup in (old, new))]
    if alone := before.keys() ^ after.keys():
        raise ModelError(f"phases: {sorted(alone)[0]} exists at one size only ({sizes[0]}), so a run cannot go from one to the other")
    changed = {name: leaf for name, leaf in before.items() if leaf.shape != after[name].shape}
    made = jax.eval_shape(lambda leaves: resize_leaves(leaves, old.task, new.task), changed)
    for name, leaf in made.items():
        if leaf.shape != after[name].shape:
            raise ModelError(
                f"phases: {name} is {changed[name].shape}, at the next size ({sizes[0]}) {after[name].shape}: neither the model's file nor the "
                "task says how it is resized"
            )
    return changed


def resize_leaves(leaves: dict[str, Any], old: Task, new: Task) -> dict[str, Any]:
    """Leaves by name, brought to the image size of `new` where a table names them; the others as they are."""
    of_model = getattr(sys.modules[type(new.model).__module__], "SIZE_DEPENDENT", ())
    tables = [
        *((pattern, function, old, new) for pattern, function in new.size_dependent),
        *((pattern, _published(function), old.model, new.model) for pattern, function in of_model),
    ]

    def resize(name: str, leaf: Any) -> Any:
        for pattern, function, *pair in tables:
            if re.fullmatch(rf"(.*/)?{pattern}", name):
                return function(leaf, *pair)
        return leaf

    return map_named(resize, leaves)


def _published(function: Callable) -> Callable:
    """The function of a table, bilinear where it leaves the choice."""
    return functools.partial(function, method=METHOD) if "method" in inspect.signature(function).parameters else function


def lower_resize(old: Setup, new: Setup) -> jax.stages.Lowered | None:
    """The program of a boundary, {name: leaf} to the same at the next size, sharded as each phase wants it; None where no leaf changes."""
    changed = changed_leaves(old, new)
    if not changed:
        return None
    before, after = ({name: named_leaves(one.shardings.replace(frozen={}))[name] for name in changed} for one in (old, new))
    leaves = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=before[name]) for name, leaf in changed.items()}
    return jax.jit(lambda leaves: resize_leaves(leaves, old.task, new.task), in_shardings=(before,), out_shardings=after).lower(leaves)


def resize_state(carry: TrainState, old: Setup, new: Setup, program: Callable | None = None) -> TrainState:
    """The state of a run at the size of another phase. What does not depend on the size is not copied.

    Args:
      program: of `lower_resize`, where it was compiled ahead.
    """
    changed = changed_leaves(old, new)
    if not changed:
        return carry
    leaves = named_leaves(carry)
    resized = (program or lower_resize(old, new).compile())({name: leaves[name] for name in changed})
    structure = jax.tree.structure(new.state_shapes.replace(frozen={}))
    return jax.tree.unflatten(structure, [resized.get(name, leaf) for name, leaf in leaves.items()])
