"""Paper 93, small: trained from scratch on eight photographs, DRCT beats bicubic interpolation on three others."""

import pytest

from tests.runs import trained

# In dB of luma, mean over three whole photographs at x2, after 1,500 steps of 8 patches.
MARGIN = 0.5


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_drct_beats_bicubic_on_photographs_it_never_saw(tmp_path):
    metrics = trained("drct.py:demo", tmp_path / "run", "--config.eval_every=100000")
    ours, bicubic = metrics["test/picture_psnr_y"], metrics["test/input_picture_psnr_y"]
    print({"drct": round(ours, 2), "bicubic": round(bicubic, 2), "margin": round(ours - bicubic, 2)})
    assert ours >= bicubic + MARGIN
