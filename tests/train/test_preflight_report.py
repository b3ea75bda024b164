"""The page and preflight.json from a table of figures; nothing is compiled."""

import copy

import pytest

from jaxvision.train.preflight.chips import CHIPS
from jaxvision.train.preflight.programs import too_large
from jaxvision.train.preflight.report import page, summarize

V5E = CHIPS["v5e"]
GIB = 2**30
FIGURES = {
    "compiled": True,
    "fits": True,
    "arguments_bytes": 1 * GIB,
    "temporaries_bytes": 6 * GIB,
    "total_bytes": 8 * GIB,
    "memory_bytes": 16 * GIB,
    "compile_seconds": 100.0,
    "seconds": 0.2,
    "augmentation_seconds": 0.05,
    "seconds_by": {"compiler": 0.17, "listing": 0.01, "hand": 0.01, "link": 0.01},
    "memory_bound": False,
    "flops": 1e13,
    "unpriced_share": 0.0,
    "share_of_peak": 0.338,
    "share_of_peak_with_augmentation": 0.254,
    "collectives": {"all-reduce": {"count": 2, "bytes": 88e6}},
    "costliest": [
        {"op": "fusion.7", "opcode": "fusion", "layer": "ViT/blocks_0/attn", "source": "jaxvision/nn/attention.py:52", "times": 12, "seconds": 0.02}
        | {"how": "compiler", "bytes": 1e9, "flops": 0.0}
    ],
    "layers": [{"name": "ViT/blocks_*/attn", "ops": 12, "seconds": 0.02, "bytes": 1e9, "flops": 3e12}],
    "by_hand": [],
    "unpriced": [],
}
STAGE = {
    "stage": "",
    "parameters": 22_050_664,
    "train_size": 1_281_167,
    "phases": [{"program": 0, "steps": 3600, "batch": 1024, "size": [160, 160]}, {"program": 1, "steps": 18000, "batch": 1024, "size": [224, 224]}],
    "evaluations": 10,
    "evaluation_steps": 36,
    "shards": 4,
    "mesh": {"data": 4, "fsdp": 1, "tensor": 1},
    "accumulate": 1,
    "remat": False,
    "scan": False,
    "upper_bound": False,
}


def row(kind, phase, **changes):
    return {"stage": "", "phase": phase, "kind": kind, "name": f"{kind} {phase}", **copy.deepcopy(FIGURES), **changes}


def rows(**changes):
    return [row("train", 0, seconds=0.1), row("eval", 0), row("init", 0), row("train", 1, **changes), row("eval", 1, seconds=0.1)]


def of(**changes):
    return summarize([STAGE], rows(**changes), "v5e:2x2", V5E, 4)


def test_figures_at_the_top_are_of_the_last_phase_and_hours_of_all():
    summary = of()
    assert summary["fits"] and summary["predicted_step_seconds"] == 0.2 and summary["temporaries_bytes"] == 6 * GIB
    assert (summary["share_of_peak"], summary["share_of_peak_with_augmentation"]) == (0.338, 0.254)
    assert summary["flops_per_step"] == 4e13
    assert summary["predicted_images_per_second"] == pytest.approx(5120)
    assert summary["predicted_training_hours"] == pytest.approx((3600 * 0.1 + 18000 * 0.2) / 3600)
    assert summary["predicted_evaluation_hours"] == pytest.approx(10 * 36 * 0.1 / 3600)


def test_page_names_share_source_and_collectives():
    text = page(of())
    lines = ("33.8%", "25.4%", "jaxvision/nn/attention.py:52", "fusion x 12", "ViT/blocks_*/attn", "all-reduce 2 with 83.9 MiB", "22,050,664")
    for words in (*lines, "Predicted", "\nfits"):
        assert words in text, words


def test_figures_of_the_train_step_stand_without_the_other_programs():
    summary = summarize([STAGE], [each for each in rows() if each["kind"] == "train"], "v5e:2x2", V5E, 4)
    assert summary["predicted_step_seconds"] == 0.2 and summary["predicted_training_hours"] == of()["predicted_training_hours"]
    assert summary["predicted_evaluation_hours"] is None
    assert "hours of the run: 1.1 training; reading" in page(summary)


def test_long_compilation_is_noted_with_what_would_shorten_it():
    text = page(of(compile_seconds=420.0))
    assert "train 1 took 7.0 min to compile: --config.model.scan=True traces one block for all" in text
    assert "to compile" not in page(of())
    without = summarize([{**STAGE, "scan": None}], rows(compile_seconds=420.0), "v5e:2x2", V5E, 4)
    assert "scan" not in page(without)


def test_slowest_of_several_static_choices_is_promised():
    choices = [*rows(), row("train", 1, seconds=0.3, name="train, other")]
    assert summarize([STAGE], choices, "v5e:2x2", V5E, 4)["predicted_step_seconds"] == 0.3


def test_misfit_says_what_to_change():
    summary = of(fits=False, total_bytes=31 * GIB, temporaries_bytes=29 * GIB)
    assert not summary["fits"]
    assert "train 1 needs 31.00 GiB of 16.00 GiB a chip" in summary["misfit"]
    # (16 - 1) / (31 - 1) of the batch, a tenth left free: 460.8.
    for words in ("--config.model.remat=True", "--config.optim.accumulate=2", "--config.batch_size=460"):
        assert words in summary["misfit"], words
    assert "fsdp" not in summary["misfit"]
    assert "DOES NOT FIT" in page(summary)


def test_state_that_fills_the_chip_is_to_be_cut():
    summary = of(fits=False, total_bytes=20 * GIB, arguments_bytes=12 * GIB)
    assert "--config.mesh.fsdp=4 --config.mesh.data=1" in summary["misfit"]


def test_step_without_price_has_no_share_and_says_so():
    summary = of(unpriced_share=0.2, share_of_peak=None, share_of_peak_with_augmentation=None)
    assert summary["share_of_peak"] is None
    assert "ops without any price move 20% of the train step's bytes" in page(summary)


def test_refusal_of_the_compiler_is_read():
    message = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 37.05G of 15.75G hbm. "
        "Exceeded hbm capacity by 21.30G."
    )
    found = too_large(message, V5E.memory)
    assert (found["fits"], found["compiled"]) == (False, False)
    assert found["total_bytes"] == 37.05 * GIB and found["memory_bytes"] == 15.75 * GIB
    refused = of(**{**dict.fromkeys(("seconds", "augmentation_seconds", "share_of_peak"), None), **found, "compile_seconds": 3.0})
    assert not refused["fits"] and refused["predicted_training_hours"] is None
    assert "DOES NOT FIT" in page(refused)
    assert too_large("INTERNAL: Mosaic failed to compile", V5E.memory) is None


def test_stage_after_one_that_cuts_the_network_is_an_upper_bound():
    after = {**STAGE, "stage": "finetune", "upper_bound": True}
    of_both = [*rows(), *({**each, "stage": "finetune"} for each in rows())]
    summary = summarize([STAGE, after], of_both, "v5e:2x2", V5E, 4)
    assert summary["upper_bound"] and "upper bound" in page(summary)
    assert not of()["upper_bound"]
    # Hours are those of both stages.
    assert summary["predicted_training_hours"] == pytest.approx(2 * of()["predicted_training_hours"])


def test_chip_without_estimates_and_kernels_without_declared_operations_are_noted():
    gpu = page(summarize([STAGE], rows(), "h100:8", CHIPS["h100"], 8))
    assert "a lower bound" in gpu and "a lower bound" not in page(of())
    assert "operations inside 24 calls of kernels" in page(of(undeclared_kernels=24))
