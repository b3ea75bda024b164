import pathlib

import numpy as np

from jaxvision.interop.files import _state_dict


def test_averaged_weights_saved_as_a_list_are_numbered_in_its_order():
    arrays = [np.full(3, n, np.float32) for n in range(12)]
    for content in ({"ema": {"decay": 0.9999, "shadow_params": arrays}, "optimizer": {"lr": 1e-4}}, {"shadow_params": arrays}):
        named = _state_dict(content, pathlib.Path("teacher.pth"), None)
        assert list(named) == [f"shadow_params.{n}" for n in range(12)] and named["shadow_params.11"][0] == 11
    named = _state_dict({"net": {"weight": arrays[0]}, "ema": {"shadow_params": arrays}}, pathlib.Path("teacher.pth"), "net")
    assert list(named) == ["weight"]
