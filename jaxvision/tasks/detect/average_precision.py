"""Average precision of detections: COCO's by pycocotools, PASCAL VOC's as its development kit has it.

Rows are of pictures: `boxes` (M, K, 4) yxyx, `box_label`, `box_score` (M, K) as found, and `truth` (M, N, 4), `truth_label`, `truth_valid`,
`truth_ignore`, `truth_area` (M, N). All coordinates are those of the pictures.
"""

import contextlib
import importlib.util
import io
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from jaxvision.errors import ConfigError

Rows = Mapping[str, np.ndarray]
# COCOeval's figures by their place in `stats`.
COCO = {0: "ap", 1: "ap50", 2: "ap75", 3: "ap_small", 4: "ap_medium", 5: "ap_large"}
THRESHOLDS = np.linspace(0.5, 0.95, 10)


def check_coco() -> None:
    """Raises ConfigError where pycocotools is not installed."""
    if importlib.util.find_spec("pycocotools") is None:
        raise ConfigError(
            "COCO's average precision (task.metrics 'coco') is computed by pycocotools, which is not installed: pip install 'jaxvision[detect]', "
            "or set task.metrics=('voc',)"
        )


def coco(rows: Rows, classes: int) -> dict[str, float]:
    """{"ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"}; sizes of which there are no objects are left out. What is ignored is a crowd."""
    check_coco()
    from pycocotools.coco import COCO as Annotations
    from pycocotools.cocoeval import COCOeval

    truth, found = [], []
    for picture, valid in enumerate(rows["truth_valid"]):
        for n in np.flatnonzero(valid):
            top, left, bottom, right = map(float, rows["truth"][picture, n])
            known = {"image_id": picture, "category_id": int(rows["truth_label"][picture, n]), "area": float(rows["truth_area"][picture, n])}
            box = [left, top, right - left, bottom - top]
            truth.append({"id": len(truth) + 1, "bbox": box, "iscrowd": int(rows["truth_ignore"][picture, n]), **known})
        boxes = np.asarray(rows["boxes"][picture], np.float64)
        sides = boxes[:, [1, 0, 3, 2]]
        sides[:, 2:] -= sides[:, :2]
        found.append(np.column_stack([np.full(len(boxes), picture), sides, rows["box_score"][picture], rows["box_label"][picture]]))
    annotations = Annotations()
    images = [{"id": picture} for picture in range(len(rows["truth_valid"]))]
    annotations.dataset = {"images": images, "annotations": truth, "categories": [{"id": k, "name": str(k)} for k in range(classes)]}
    with contextlib.redirect_stdout(io.StringIO()):
        annotations.createIndex()
        evaluation = COCOeval(annotations, annotations.loadRes(np.concatenate(found)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(evaluation.stats[place]) for place, name in COCO.items() if evaluation.stats[place] >= 0 or place < 3}


def overlaps(boxes: Float[np.ndarray, "k 4"], truth: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "k n"]:
    """Intersection over union of each with each."""
    low, high = np.maximum(boxes[:, None, :2], truth[None, :, :2]), np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), -1)
    areas = [np.prod(np.maximum(b[:, 2:] - b[:, :2], 0), -1) for b in (boxes, truth)]
    return shared / np.maximum(areas[0][:, None] + areas[1] - shared, 1e-9)


def matches(rows: Rows, label: int, thresholds: Float[np.ndarray, "t"]) -> tuple[Float[np.ndarray, "d"], Int[np.ndarray, "d t"], int]:
    """(scores, 1 for hits, 0 for misses, -1 for what does not count, number of objects) of one class, best first, as VOC matches them.

    Each box is compared with the object that it overlaps most, be it taken or not; one of `truth_ignore` counts neither way.
    """
    scores, hits, objects = [], [], 0
    for picture, valid in enumerate(rows["truth_valid"]):
        mine = valid & (rows["truth_label"][picture] == label)
        ignored = rows["truth_ignore"][picture][mine].astype(bool)
        objects += int((~ignored).sum())
        chosen = np.flatnonzero(rows["box_label"][picture] == label)
        chosen = chosen[np.argsort(-rows["box_score"][picture][chosen], kind="stable")]
        hit = np.zeros((len(chosen), len(thresholds)), np.int64)
        if mine.any() and len(chosen):
            shared = overlaps(rows["boxes"][picture][chosen].astype(np.float64), rows["truth"][picture][mine].astype(np.float64))
            best, most = shared.argmax(1), shared.max(1)
            for t, threshold in enumerate(thresholds):
                taken: set[int] = set()
                for i in np.flatnonzero(most > threshold):
                    hit[i, t] = -1 if ignored[best[i]] else best[i] not in taken
                    taken.add(best[i])
        scores.append(rows["box_score"][picture][chosen])
        hits.append(hit)
    scores, hits = np.concatenate(scores), np.concatenate(hits)
    order = np.argsort(-scores, kind="stable")
    return scores[order], hits[order], objects


def precision_area(hit: Int[np.ndarray, "d"], objects: int, points: bool) -> float:
    """Area under the precision that is reached at each recall or beyond; `points`: its mean at the recalls 0, 0.1, …, 1, as VOC had it to 2009."""
    counted = hit[hit >= 0]
    right = np.cumsum(counted)
    recall, precision = right / max(objects, 1), right / np.maximum(np.arange(1, len(counted) + 1), 1)
    if points:
        return float(np.mean([precision[recall >= point].max(initial=0.0) for point in np.arange(0, 1.1, 0.1)]))
    recall, precision = np.concatenate([[0], recall, [1]]), np.concatenate([[0], precision, [0]])
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(((recall[steps + 1] - recall[steps]) * precision[steps + 1]).sum())


def voc(rows: Rows, classes: int) -> dict[str, float]:
    """{"voc07_ap50", "voc07_ap75", "voc07_ap" (mean over the overlaps 0.5, 0.55, …, 0.95), and the same as "voc_…" by area}, means over classes."""
    tables: dict[bool, list[list[float]]] = {True: [], False: []}
    for label in range(classes):
        _, hits, objects = matches(rows, label, THRESHOLDS)
        if objects:
            for points, table in tables.items():
                table.append([precision_area(hits[:, t], objects, points) for t in range(len(THRESHOLDS))])
    figures = {}
    for points, name in ((True, "voc07"), (False, "voc")):
        mean = np.mean(tables[points], axis=0) if tables[points] else np.zeros(len(THRESHOLDS))
        figures |= {f"{name}_ap": float(mean.mean()), f"{name}_ap50": float(mean[0]), f"{name}_ap75": float(mean[5])}
    return figures


METRICS = {"coco": coco, "voc": voc}
