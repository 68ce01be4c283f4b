"""COCO's average precision, over the detections of all processes."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.ops import box_convert

from util.dist import broadcast_from_main, gather_to_main, is_main_process


class CocoEvaluator:
    """Collects detections, then scores them once, on the main process.

        evaluator.update(...)                    for each batch
        evaluator.synchronize_between_processes()
        evaluator.accumulate()
        evaluator.summarize()

    Every image of the annotations counts, also one whose detections never came.

    Args:
        coco_gt: the annotations.
        iou_types: only "bbox".

    Attributes:
        coco_eval: on the main process, pycocotools' COCOeval by IoU type.
        stats: COCO's 12 numbers by IoU type, on every process (after `summarize`).
    """

    def __init__(self, coco_gt: COCO, iou_types: tuple[str, ...] = ("bbox",)):
        self.coco_gt = coco_gt
        self.iou_types = iou_types
        self.results: list[dict] = []
        self.coco_eval: dict[str, COCOeval] = {}
        self.stats: dict[str, list[float]] = {}

    def update(self, predictions: dict[int, dict[str, Tensor]]) -> None:
        """Add detections: by image id, what `models.postprocess.PostProcess` gives."""
        for image_id, detections in predictions.items():
            boxes = box_convert(detections["boxes"].float().cpu(), "xyxy", "xywh")
            scores, labels = detections["scores"].tolist(), detections["labels"].tolist()
            self.results.extend(
                {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
                for box, score, label in zip(boxes.tolist(), scores, labels, strict=True)
            )

    def synchronize_between_processes(self) -> None:
        gathered = gather_to_main(self.results)
        if gathered is not None:
            # Equal scores keep the order of image ids, whichever process an image was on.
            merged = [result for results in gathered for result in results]
            self.results = sorted(merged, key=lambda result: result["image_id"])

    def accumulate(self) -> None:
        if not is_main_process():
            return
        with contextlib.redirect_stdout(io.StringIO()):  # it announces each of its steps
            found = self.coco_gt.loadRes(self.results) if self.results else COCO()
            for iou_type in self.iou_types:
                coco_eval = COCOeval(self.coco_gt, found, iou_type)
                coco_eval.evaluate()
                coco_eval.accumulate()
                self.coco_eval[iou_type] = coco_eval

    def summarize(self) -> None:
        """Print COCO's table (main process) and make the numbers known to all processes."""
        for iou_type in self.iou_types:
            stats = None
            if is_main_process():
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
