"""Pictures of a run: curves of its log, detections on images."""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only, no display
import matplotlib.pyplot as plt
from PIL import Image

from util.errors import UserError

LOSSES = ("loss", "loss_ce", "loss_bbox", "loss_giou")


def read_log(path: Path) -> list[dict]:
    """The epochs of a log.txt.

    Raises:
        UserError: no such file, or a line that is not JSON.
    """
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: not a log of JSON lines ({error})") from error


def plot_logs(log: list[dict], path: Path) -> None:
    """Draw the losses, class error and average precision of a run over its epochs as a PNG."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    losses, errors, precision = axes
    for name, colour in zip(LOSSES, plt.colormaps["tab10"].colors, strict=False):
        _curve(losses, log, f"train_{name}", color=colour, label=name)
        _curve(losses, log, f"test_{name}", color=colour, linestyle="--")
    losses.set(title="losses (dashed: validation)", xlabel="epoch", yscale="log")
    losses.legend()
    _curve(errors, log, "train_class_error", label="training")
    _curve(errors, log, "test_class_error", linestyle="--", label="validation")
    errors.set(title="class error of matched queries, %", xlabel="epoch", ylim=(0, 100))
    errors.legend()
    scored = [epoch for epoch in log if "test_coco_eval_bbox" in epoch]
    for number, label in ((0, "AP"), (1, "AP at IoU 0.50"), (2, "AP at IoU 0.75")):
        values = [epoch["test_coco_eval_bbox"][number] for epoch in scored]
        precision.plot([epoch["epoch"] for epoch in scored], values, marker=".", label=label)
    precision.set(title="average precision, validation", xlabel="epoch", ylim=(0, 1))
    precision.legend()
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _curve(axis: plt.Axes, log: list[dict], name: str, **style) -> None:
    points = [(epoch["epoch"], epoch[name]) for epoch in log if name in epoch]
    if points:
        axis.plot(*zip(*points, strict=True), marker=".", **style)


def draw_detections(
    images: Sequence[Image.Image],
    detections: Sequence[dict],
    names: dict[int, str],
    path: Path,
    threshold: float = 0.5,
    columns: int = 6,
) -> None:
    """Draw images in a grid, with the boxes, classes and scores found on them, as a PNG.

    Args:
        detections: one an image, as from `models.postprocess.PostProcess`, in image pixels.
        names: class names by label.
        threshold: detections of a lower score are not drawn.
    """
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.6 * columns, 2.6 * rows), layout="constrained", squeeze=False
    )
    colours = plt.colormaps["tab20"].colors
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, found in zip(axes.flat, images, detections, strict=False):
        axis.imshow(image)
        for score, label, box in zip(
            found["scores"].tolist(), found["labels"].tolist(), found["boxes"].tolist(), strict=True
        ):
            if score < threshold:
                continue
            colour = colours[label % len(colours)]
            corner, size = box[:2], (box[2] - box[0], box[3] - box[1])
            axis.add_patch(plt.Rectangle(corner, *size, fill=False, color=colour, linewidth=2))
            axis.text(
                *corner,
                f"{names.get(label, label)} {score:.2f}",
                fontsize=7,
                va="bottom",
                bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.8},
            )
    figure.savefig(path, dpi=80)
    plt.close(figure)
