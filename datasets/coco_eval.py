"""COCO's average precision, over the detections of all processes."""

import numpy as np
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from util.distributed import (
    broadcast_from_main,
    gather_to_main,
    is_main_process,
    print_main,
)

from .annotations.store import Annotations
from .scoring.coco import score
from .scoring.detections import Detections
from .scoring.per_class import (
    ClassScore,
    format_classes,
    from_log,
    per_class,
    to_log,
)

# How log.txt names COCO's numbers, by IoU type; those of classes have PER_CLASS behind.
STATS = {"bbox": "coco_eval_bbox", "segm": "coco_eval_masks"}
PER_CLASS = "_per_class"


class CocoEvaluator:
    """Collects detections, then scores them once, on the main process.

        evaluator.update(...)                    for each batch
        evaluator.synchronize_between_processes()
        evaluator.accumulate()
        evaluator.summarize()

    Every image of the annotations counts, also one whose detections never came.

    Args:
        annotations: what to compare with.
        iou_types: of "bbox" and "segm".
        scorer: who computes, one of `datasets.scoring.coco.SCORERS`; the numbers are the same.

    Attributes:
        coco_eval: on the main process, pycocotools' COCOeval by IoU type.
        stats: COCO's 12 numbers by IoU type, on every process (after `summarize`).
        by_class: the scores of each class by IoU type, as `stats`.
    """

    def __init__(
        self,
        annotations: Annotations,
        iou_types: tuple[str, ...] = ("bbox",),
        scorer: str = "faster",
    ):
        self.annotations = annotations
        self.iou_types = iou_types
        self.scorer = scorer
        self.results: list[Detections] = []
        self.coco_eval: dict[str, COCOeval] = {}
        self.stats: dict[str, list[float]] = {}
        self.by_class: dict[str, list[ClassScore]] = {}

    def update(self, predictions: dict[int, dict[str, Tensor]]) -> None:
        """Add detections: by image id, what `models.postprocess` gives."""
        self.results += [Detections.of_image(*prediction) for prediction in predictions.items()]

    def synchronize_between_processes(self) -> None:
        gathered = gather_to_main(Detections.joined(self.results))
        # Equal scores keep the order of image ids, whichever process an image was on.
        self.results = [] if gathered is None else [Detections.joined(gathered).by_image()]

    def accumulate(self) -> None:
        if not is_main_process():
            return
        found = Detections.joined(self.results)
        for iou_type in self.iou_types:
            truth = self.annotations.for_scoring(iou_type)
            self.coco_eval[iou_type] = score(self.scorer, truth, found, iou_type)

    def summarize(self) -> None:
        """Print COCO's table (main process) and make the numbers known to all processes."""
        for iou_type in self.iou_types:
            numbers = None
            if is_main_process():
                print(f"IoU metric: {iou_type}")
                evaluated = self.coco_eval[iou_type]
                evaluated.summarize()
                classes = per_class(evaluated, self.annotations.categories)
                numbers = np.asarray(evaluated.stats).tolist(), classes
            self.stats[iou_type], self.by_class[iou_type] = broadcast_from_main(numbers)

    def logged(self) -> dict[str, list[float] | dict[str, list[float]]]:
        """All numbers, as log.txt names them (after `summarize`)."""
        numbers = {}
        for iou_type, name in STATS.items():
            if iou_type in self.stats:
                numbers[name] = self.stats[iou_type]
                numbers[name + PER_CLASS] = to_log(self.by_class[iou_type])
        return numbers


def format_stats(stats: list[float]) -> str:
    """COCO's table from its 12 numbers, as pycocotools prints it."""
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
    return "\n".join(
        f" {'Average ' + kind:<18} ({short}) @[ IoU={iou:<9} | area={area:>6} | maxDets={most:>3} ]"
        f" = {value:0.3f}"
        for (kind, short, iou, area, most), value in zip(rows, stats, strict=True)
    )


def print_classes(row: dict, annotations: Annotations | None, prefix: str = "test_") -> None:
    """Print the scores of each class, boxes and then masks, as tables (main process).

    Args:
        row: of log.txt; without scores nothing is printed.
        annotations: what was scored against.
        prefix: of the names in `row`; empty for those that `CocoEvaluator.logged` gives.
    """
    for iou_type, name in STATS.items():
        classes = row.get(f"{prefix}{name}{PER_CLASS}")
        if classes and annotations is not None:
            table = format_classes(from_log(classes, annotations))
            print_main(f"Classes, IoU metric: {iou_type}\n{table}")
