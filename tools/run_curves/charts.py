"""The charts of runs, for pictures and pages: which numbers, in which chart and colours."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

from tools.run_curves.runs import LoggedRun

PALETTE = (
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e",
    "#0e8a92", "#8c564b", "#e377c2", "#6b6b6b", "#a5a60c",
)  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """One small chart with one or two curves of each run.

    Attributes:
        training: name of a number, as from `training.log.flat`, or "".
        validation: the same; its curve is dashed beside one of training, and solid alone.
        logarithmic: whether the scale may be logarithmic.
        better: which value is the best one, "lowest" or "highest"; "" keeps the number out of
            tables of best values.
        smoothed: whether the page's smoothing applies: the learning rate has no noise.
    """

    title: str
    training: str = ""
    validation: str = ""
    logarithmic: bool = False
    better: str = ""
    smoothed: bool = True

    def curves(self) -> list[tuple[str, str]]:
        """Return names of numbers, and whether they are of "training" or "validation"."""
        both = ((self.training, "training"), (self.validation, "validation"))
        return [(number, whose) for number, whose in both if number]


def _loss(term: str, meaning: str, better: str = "") -> Chart:
    return Chart(f"{meaning} ({term})", f"train_{term}", f"test_{term}", True, better)


def _precision(kind: str, key: str, number: str, meaning: str) -> Chart:
    return Chart(
        f"{meaning}, {kind}", validation=f"test_coco_eval_{key}_{number}", better="highest"
    )


def _quality(key: str, meaning: str) -> Chart:
    return Chart(meaning, validation=f"test_PQ_{key}_pq", better="highest")


CHARTS = (
    _precision("boxes", "bbox", "AP", "AP"),
    _precision("boxes", "bbox", "AP50", "AP50"),
    _precision("boxes", "bbox", "AP75", "AP75"),
    _precision("boxes", "bbox", "AP_small", "AP of small objects"),
    _precision("boxes", "bbox", "AP_medium", "AP of medium objects"),
    _precision("boxes", "bbox", "AP_large", "AP of large objects"),
    _precision("masks", "masks", "AP", "AP"),
    _precision("masks", "masks", "AP50", "AP50"),
    _precision("masks", "masks", "AP_small", "AP of small objects"),
    _precision("masks", "masks", "AP_medium", "AP of medium objects"),
    _precision("masks", "masks", "AP_large", "AP of large objects"),
    _quality("all", "PQ"),
    _quality("th", "PQ of things"),
    _quality("st", "PQ of stuff"),
    Chart("top-1 accuracy, %", validation="test_acc1", better="highest"),
    Chart("top-5 accuracy, %", validation="test_acc5", better="highest"),
    _loss("loss", "sum of all losses", "lowest"),
    _loss("loss_ce", "classes"),
    _loss("loss_bbox", "boxes, L1"),
    _loss("loss_giou", "boxes, GIoU"),
    _loss("loss_mask", "masks, focal"),
    _loss("loss_dice", "masks, dice"),
    Chart("class error, %", "train_class_error", "test_class_error", better="lowest"),
    Chart("learning rate", "train_lr", logarithmic=True, smoothed=False),
    Chart("images per second in training", "train_images_per_second", better="highest"),
)


def charts_of(runs: Sequence[LoggedRun]) -> list[Chart]:
    """Return the charts that have at least one curve."""
    return [
        chart
        for chart in CHARTS
        if any(run.points(number) for number, _ in chart.curves() for run in runs)
    ]


def run_colours(count: int) -> list[str]:
    """Return a colour "#rrggbb" for each run; the first ten are easiest to tell apart."""
    more = (
        colorsys.hls_to_rgb(i * 0.618034 % 1, (0.3, 0.62)[i % 2], 0.6)
        for i in range(len(PALETTE), count)
    )
    parts = ("".join(f"{round(255 * part):02x}" for part in colour) for colour in more)
    return [*PALETTE[:count], *(f"#{part}" for part in parts)]
