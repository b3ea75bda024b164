import importlib.util
import pathlib

import pytest

from jaxvision.errors import ConfigError
from jaxvision.train.config import complete, load_config
from jaxvision.train.phases import number_at, plan, relative_compute
from tests.runs import tiny

FILE = pathlib.Path(__file__).resolve().parents[2] / "configs" / "efficienttrain.py"
spec = importlib.util.spec_from_file_location("efficienttrain_config", FILE)
published = importlib.util.module_from_spec(spec)
spec.loader.exec_module(published)
IMAGENET = 1_281_167


def at_4096(variant: str, train_size: int = 4096):
    """The plan over a data set of one batch an epoch, so that steps are epochs."""
    return plan(complete(published.get_config(variant)), train_size)


def test_the_five_stages_of_efficienttrain_end_at_60_120_180_240_300_epochs():
    phases = at_4096("deit_s")
    assert [phase.stop for phase in phases] == [60, 120, 180, 240, 300]
    assert [phase.size for phase in phases] == [(160, 160)] * 3 + [(192, 192), (224, 224)]
    assert phases[0].magnitudes == ((0, 1.0), (60, 3.0), (120, 5.0), (180, 7.0), (240, 9.0))
    assert relative_compute(phases) == pytest.approx(0.6531, abs=5e-5)
    assert {(phase.total, phase.offset) for phase in phases} == {(300, 0)}  # one schedule goes on through all stages
    assert len({phase.program for phase in phases}) == 3
    assert plan(complete(published.get_config("deit_s")), IMAGENET)[-1].stop == 93836  # ceil(300 * 1281167 / 4096)


def test_the_ten_stages_of_plus_are_those_of_the_public_code():
    assert [whole for whole, _, _ in published.plus_stages(200, (96, 160, 192, 224))] == [1088, 392, 272, 200]
    edges = lambda name: [(start, end) for _, start, end in published.plus_stages(200, published.TENTHS[name])]
    beginning = [(0, 108), (108, 217), (78, 117), (117, 156), (156, 196), (196, 235)]
    assert edges("default") == [*beginning, (120, 140), (140, 160), (160, 180), (180, 200)]
    assert edges("deit") == [*beginning, (163, 190), (190, 217), (159, 180), (180, 200)]
    seen = {name: at_4096(f"{model},plus200")[-1].stop for name, model in (("default", "swin_t"), ("deit", "deit_s"), ("convnext", "convnext_t"))}
    assert seen == {"default": 454, "deit": 469, "convnext": 315}
    compute = [relative_compute(at_4096(f"{m},plus200")) * n for m, n in (("swin_t", 454), ("deit_s", 469), ("convnext_t", 315))]
    assert compute == pytest.approx([200.0, 200.6, 199.9], abs=0.06)


def test_the_rate_of_plus_is_that_of_the_stages_own_numbering():
    phases = at_4096("deit_s,plus200")
    assert [(phase.total, phase.start + phase.offset) for phase in phases[:3]] == [(1088, 0), (1088, 108), (392, 78)]
    assert [(phase.total, phase.start + phase.offset) for phase in phases[6:]] == [(272, 163), (272, 190), (200, 159), (200, 180)]
    assert len({phase.program for phase in phases}) == 4
    config = published.get_config("deit_s,plus100")
    assert config.optim.warmup == 0.2 and config.model.drop_path == 0.05
    assert published.get_config("swin_t,plus300").optim.warmup == "20ep"
    assert published.get_config("swin_b,plus300").model.drop_path == pytest.approx(0.75)


def test_shares_of_compute_become_steps_and_places_in_the_schedule():
    config = tiny(epochs=4, batch_size=10, image_size=(8, 8), phases=({"until": 0.25, "size": 4}, {"until": 0.5, "size": 4}, {}))
    first, second, last = plan(config, 100)
    # 40 steps at the full size; a quarter of them costs as much as 40 steps at a quarter of the area.
    assert [(phase.start, phase.stop) for phase in (first, second, last)] == [(0, 40), (40, 80), (80, 100)]
    assert (first.total, first.offset, last.total, last.offset + 80) == (160, 0, 40, 20)
    assert first.program == second.program and first.crop == "spectrum" and last.crop == ""
    assert [number_at((first, second, last), step) for step in (0, 39, 40, 79, 80, 100)] == [0, 0, 1, 1, 2, 2]


def test_a_larger_batch_takes_fewer_steps_at_the_same_place_of_the_schedule():
    config = tiny(epochs=4, batch_size=10, phases=({"until": "2ep", "batch": 20}, {"until": "4ep"}))
    first, last = plan(config, 100)
    assert (first.stop, last.stop) == (10, 30)
    assert (first.total, first.offset, last.total, last.offset + 10) == (20, 0, 40, 20)


def test_a_run_without_phases_is_one_phase():
    (phase,) = plan(tiny(steps=7), 100)
    assert (phase.start, phase.stop, phase.total, phase.offset, phase.crop, phase.batch) == (0, 7, 7, 0, "", 16)
    assert relative_compute((phase,)) == 1


@pytest.mark.parametrize(
    ("phases", "named"),
    [
        (({"untl": 4},), "until"),
        (({"until": 4, "size": 10}, {}), "image_size"),
        (({"until": 4, "size": 5}, {}), "even"),
        (({"until": 4, "size": 4, "crop": "spectral"}, {}), "spectrum"),
        (({"until": 4}, {"until": "8ep"}), "unit"),
        (({"until": "4ep"}, {"until": "8ep"}), "'epochs'"),
        (({"until": 4}, {"until": 3}), "grow"),
        (({"until": 4}, {"until": 9}), "8 steps"),
        (({}, {"until": 8}), "but the last"),
        (({"until": 8, "size": 4},), "last one"),
        (({"until": 4, "magnitude": 2}, {}), "magnitude"),
        (({"until": 4, "magnitude": 20}, {}), "0..10"),
        (({"until": 4, "batch": 0}, {}), "batch"),
        (({"until": 4, "replay": (3, 2)}, {}), "divide"),
        (({"until": True}, {}), "takes epochs"),
        ((4,), "table"),
        (({"until": 1e-9}, {}), "no step"),
    ],
)
def test_a_table_that_makes_no_sense_is_one_line(phases, named):
    with pytest.raises(ConfigError, match=named) as error:
        plan(tiny(steps=8, phases=phases), 100)
    assert "\n" not in str(error.value)


VARIANTS = ["demo", "digits,cut", "fashion", "fashion,conv,cut", "deit_t,450", "caformer_s36,plus200", "resnet50,plus200,replay", "swin_s,baseline"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variants_of_the_config_make_plans(variant):
    config = load_config(f"{FILE}:{variant}")
    assert plan(config, 10_000)[-1].size == config.image_size


@pytest.mark.parametrize("variant", ["dmo", "deit_s,plus", "deit_s,300,replay", "swin_s,plus200,replay", "fashion,vti", "demo,more"])
def test_other_variants_are_one_line(variant):
    with pytest.raises(ConfigError):
        published.get_config(variant)
