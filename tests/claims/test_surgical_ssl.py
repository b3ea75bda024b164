"""Paper 06, small: MoCo v2 and SimCLR learn what views of one picture share, and nothing from views of different pictures.

Digits under other lights (tests/tasks/ssl/other_lights.py), of which raw pixels tell little; nearest neighbours by the backbone's features.
Seen after 60 epochs, in per cent: SimCLR 80.8, 25.6 by views of different pictures, 30.3 untrained; MoCo 63.9, 23.3 and 30.3. SwAV and DINO, which
need steadier light: test_surgical_ssl_clusters.py. What has not been seen, the shapes of the demo: pending/test_surgical_ssl_shapes.py.
"""

import pytest
from ml_collections import ConfigDict

import jaxvision
from jaxvision.train.config import complete
from tests.claims.pending.test_surgical_ssl_shapes import pretraining

MODEL = {"name": "mixer_s16_224", "patch": 4, "dim": 64, "depth": 2}
DIGITS = {"source": "digits", "mean": (0.5,), "std": (0.5,)}


def learned(method: str, kind: str, folder, epochs: int = 60, lr: float = 2e-3) -> float:
    """Accuracy in per cent of nearest neighbours after training by a class of tests.tasks.ssl.other_lights."""
    config = ConfigDict({**pretraining(method).to_dict(), "model": MODEL, "data": DIGITS, "image_size": (8, 8), "batch_size": 64})
    config.task.name = f"tests.tasks.ssl.other_lights:{kind}"
    config.epochs, config.optim.lr, config.eval_batch_size = epochs, lr, 360
    return 100 * jaxvision.fit(complete(config), folder, report=lambda line: None)["test/knn"]


@pytest.mark.claim
@pytest.mark.timeout(300)
@pytest.mark.parametrize("method, name", [("simclr", "SimCLR"), ("moco", "MoCo")])
def test_views_of_one_picture_teach_the_digit_and_views_of_different_ones_do_not(method, name, tmp_path):
    untrained = learned(method, name, tmp_path / "untrained", epochs=1, lr=1e-9)
    paired, mixed = learned(method, name, tmp_path / "paired"), learned(method, f"Mixed{name}", tmp_path / "mixed")
    found = {"untrained": untrained, "paired": paired, "mixed": mixed}
    print(method, {arm: round(value, 1) for arm, value in found.items()})
    assert paired > untrained + 15
    assert mixed < untrained + 8
