"""COCO's average precision, over the detections of all processes."""

import contextlib
import copy
import io
import sys

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.ops import box_convert

from util.distributed import (
    all_gather,
    broadcast_from_main,
    gather_to_main,
    is_main_process,
    print_main,
)

from .annotations.store import Annotations
from .scoring.coco import MAX_DETECTIONS, average_precision, score
from .scoring.detections import Detections
from .scoring.per_class import ClassScore, format_classes, from_log, per_class, to_log

# Keys of COCO's numbers in log.txt, by IoU type; those of classes end with PER_CLASS, AP by all
# detections of an image with UNCUT.
STATS = {"bbox": "coco_eval_bbox", "segm": "coco_eval_masks"}
PER_CLASS = "_per_class"
UNCUT = "_AP_uncut"


class CocoEvaluator:
    """Collects detections, and scores them once, on the main process.

        evaluator.update(...)                    for each batch
        evaluator.synchronize_between_processes()
        evaluator.accumulate()
        evaluator.summarize()

    Every image of the annotations counts, also one without a call of `update`.

    Args:
        coco_gt: what to compare with; as in DETR, a COCO object of pycocotools will do.
        iou_types: some of "bbox" and "segm".
        scorer: one of `datasets.scoring.SCORERS`; the numbers are the same.

    Attributes:
        coco_eval: pycocotools' COCOeval by IoU type, on the main process.
        stats: COCO's 12 numbers by IoU type, on every process (after `summarize`).
        by_class: the scores of each class by IoU type, as `stats`.
        uncut: AP by all detections, by IoU type, as `stats`; None where no image has more than the
            100 that COCO counts.
    """

    def __init__(
        self,
        coco_gt: Annotations | COCO,
        iou_types: tuple[str, ...] = ("bbox",),
        scorer: str = "faster",
    ):
        self.annotations = coco_gt
        self.iou_types = iou_types
        self.scorer = scorer
        self.results: list[Detections] = []
        self.coco_eval: dict[str, COCOeval] = {}
        self.stats: dict[str, list[float]] = {}
        self.by_class: dict[str, list[ClassScore]] = {}
        self.uncut: dict[str, float | None] = {}

    def update(self, predictions: dict[int, dict[str, Tensor]]) -> None:
        """Add detections: for each image id, what `models.postprocess` gives."""
        self.results += [Detections.of_image(*prediction) for prediction in predictions.items()]

    def synchronize_between_processes(self) -> None:
        """Gather the detections of all processes on the main one."""
        gathered = gather_to_main(Detections.joined(self.results))
        # Sorted, so that equal scores are ranked alike whichever process an image was on.
        self.results = [] if gathered is None else [Detections.joined(gathered).by_image()]

    def accumulate(self) -> None:
        """Score the gathered detections (main process)."""
        if not is_main_process():
            return
        detections = Detections.joined(self.results)
        most = detections.most_in_an_image()
        for iou_type in self.iou_types:
            if isinstance(self.annotations, COCO):
                truth = self.annotations.dataset
            else:
                truth = self.annotations.for_scoring(iou_type)
            self.coco_eval[iou_type] = score(self.scorer, truth, detections, iou_type)
            self.uncut[iou_type] = None
            if most > MAX_DETECTIONS:
                uncut = score(self.scorer, truth, detections, iou_type, most)
                self.uncut[iou_type] = average_precision(uncut)

    def summarize(self, table: bool = True) -> None:
        """Compute the numbers and send them to all processes.

        Args:
            table: print COCO's table, too (main process).
        """
        for iou_type in self.iou_types:
            numbers = None
            if is_main_process():
                evaluated = self.coco_eval[iou_type]
                uncut = self.uncut[iou_type]
                # pycocotools prints what it computes.
                with contextlib.redirect_stdout(sys.stdout if table else io.StringIO()):
                    print(f"IoU metric: {iou_type}")
                    evaluated.summarize()
                    if uncut is not None:
                        print(format_uncut(uncut))
                classes = per_class(evaluated, evaluated.cocoGt.dataset["categories"])
                numbers = np.asarray(evaluated.stats).tolist(), classes, uncut
            received = broadcast_from_main(numbers)
            self.stats[iou_type], self.by_class[iou_type], self.uncut[iou_type] = received

    def logged(self) -> dict[str, list[float] | dict[str, list[float]]]:
        """Return all numbers under their keys of log.txt (after `summarize`)."""
        numbers = {}
        for iou_type, name in STATS.items():
            if iou_type in self.stats:
                numbers[name] = self.stats[iou_type]
                numbers[name + PER_CLASS] = to_log(self.by_class[iou_type])
                if self.uncut[iou_type] is not None:
                    numbers[name + UNCUT] = self.uncut[iou_type]
        return numbers


def format_stats(stats: list[float]) -> str:
    """Format COCO's table from its 12 numbers, as pycocotools prints it."""
    rows = [
        ("Precision", "AP", iou, area, 100)
        for iou, area in (
            ("0.50:0.95", "all"),
            ("0.50", "all"),
            ("0.75", "all"),
            ("0.50:0.95", "small"),
            ("0.50:0.95", "medium"),
            ("0.50:0.95", "large"),
        )
    ]
    rows += [("Recall", "AR", "0.50:0.95", "all", most) for most in (1, 10, 100)]
    rows += [("Recall", "AR", "0.50:0.95", area, 100) for area in ("small", "medium", "large")]
    return "\n".join(_line(*row, value) for row, value in zip(rows, stats, strict=True))


def format_uncut(ap: float) -> str:
    """Format AP by all detections of an image, as a further line of COCO's table."""
    return _line("Precision", "AP", "0.50:0.95", "all", "all", ap)


def _line(kind: str, short: str, iou: str, area: str, most: int | str, value: float) -> str:
    return (
        f" {'Average ' + kind:<18} ({short}) @[ IoU={iou:<9} | area={area:>6} | maxDets={most:>3} ]"
        f" = {value:0.3f}"
    )


def print_classes(row: dict, annotations: Annotations | None, prefix: str = "test_") -> None:
    """Print the scores of each class, boxes and then masks, as tables (main process).

    Args:
        row: a row of log.txt; without scores nothing is printed.
        annotations: what was scored against.
        prefix: of the keys in `row`; empty for those of `CocoEvaluator.logged`.
    """
    for iou_type, name in STATS.items():
        classes = row.get(f"{prefix}{name}{PER_CLASS}")
        if classes and annotations is not None:
            table = format_classes(from_log(classes, annotations))
            print_main(f"Classes, IoU metric: {iou_type}\n{table}")


# ---- DETR's functions of these names, for scripts that import them ----


def convert_to_xywh(boxes: Tensor) -> Tensor:
    """Convert boxes (n, 4) from (x0, y0, x1, y1) to (x, y, w, h)."""
    return box_convert(boxes, "xyxy", "xywh")


def evaluate(coco_eval: COCOeval) -> tuple[list[int], np.ndarray]:
    """Evaluate the images of coco_eval.params.imgIds, without output.

    Returns:
        their ids, sorted, and pycocotools' evalImgs as an array (categories, area ranges, images).
    """
    with contextlib.redirect_stdout(io.StringIO()):
        coco_eval.evaluate()
    params = coco_eval.params
    shape = -1, len(params.areaRng), len(params.imgIds)
    return params.imgIds, np.asarray(coco_eval.evalImgs).reshape(shape)


def merge(img_ids: list[int], eval_imgs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join what `evaluate` returned on all processes; of an image on several, one is kept."""
    gathered = all_gather((img_ids, eval_imgs))
    ids = np.concatenate([part_ids for part_ids, _ in gathered])
    ids, first = np.unique(ids, return_index=True)
    return ids, np.concatenate([part for _, part in gathered], axis=2)[..., first]


def create_common_coco_eval(coco_eval: COCOeval, img_ids: list[int], eval_imgs: np.ndarray) -> None:
    """Let `coco_eval` hold the evaluated images of all processes, ready for its accumulate()."""
    merged_ids, merged = merge(img_ids, eval_imgs)
    coco_eval.evalImgs = list(merged.flatten())
    coco_eval.params.imgIds = merged_ids.tolist()
    coco_eval._paramsEval = copy.deepcopy(coco_eval.params)
