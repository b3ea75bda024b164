"""Every config's `demo` to its end, as its header describes it. Those that a claim of their own trains are left to that claim."""

import pytest

from tests.runs import trained

# The metric that the demo is judged by, and what it reaches at least: a little below what was seen.
DEMOS = {
    "convit": ("test/accuracy", 0.75),
    "d_former": ("test/dice", 0.5),
    "dr_resnet": ("test/auc", 0.98),
    "efficienttrain": ("test/accuracy", 0.83),
    "fast_scaling": ("test/accuracy", 0.92),
    "finetune": ("test/accuracy", 0.8),
    "hornet": ("test/accuracy", 0.94),
    "inception_v4": ("test/accuracy", 0.96),
    "inceptionnext": ("test/accuracy", 0.96),
    "metaformer": ("test/accuracy", 0.95),
    "mirnet": ("test/psnr", 27.5),
    "patch_mixing": ("test/accuracy", 0.93),
    "precropping": ("test/accuracy", 0.97),
    "sam_vit": ("test/accuracy", 0.75),
}


@pytest.mark.claim
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", DEMOS)
def test_the_demo_learns_what_its_header_says(name, tmp_path):
    last = trained(f"{name}.py:demo", tmp_path / "run")
    metric, least = DEMOS[name]
    print(name, {key: round(value, 4) for key, value in last.items() if isinstance(value, float)})
    assert last[metric] >= least
