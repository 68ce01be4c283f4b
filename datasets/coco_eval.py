"""COCO's average precision, over the detections of all processes."""

import numpy as np
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from util.dist import broadcast_from_main, gather_to_main, is_main_process

from .annotation_store import Annotations
from .detections import Detections
from .scorers import score


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
        scorer: who computes, one of `datasets.scorers.SCORERS`; the numbers are the same.

    Attributes:
        coco_eval: on the main process, pycocotools' COCOeval by IoU type.
        stats: COCO's 12 numbers by IoU type, on every process (after `summarize`).
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
            stats = None
            if is_main_process():
                print(f"IoU metric: {iou_type}")
                self.coco_eval[iou_type].summarize()
                stats = np.asarray(self.coco_eval[iou_type].stats).tolist()
            self.stats[iou_type] = broadcast_from_main(stats)


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
