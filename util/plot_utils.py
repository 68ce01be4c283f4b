"""DETR's plots of logs and evaluations, and captions on figures."""

import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePath

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch

from util.errors import UserError
from util.files import read_text
from util.pictures import colours

if "MPLBACKEND" not in os.environ:  # notebooks set it
    matplotlib.use("Agg")  # pictures are written to files, there may be no display


def colour_of(label: int) -> tuple[float, float, float]:
    """Return the colour of a class, as red, green and blue from 0 to 1."""
    return tuple(part / 255 for part in colours.colour_of(label))


def draw_caption(
    axis: plt.Axes, x: float, y: float, text: str, colour: tuple[float, float, float]
) -> None:
    """Draw text on a coloured background with its lower left corner at x, y of the axes."""
    box = {"facecolor": colour, "edgecolor": "none", "pad": 0.8}
    ink = [part / 255 for part in colours.ink_on([255 * part for part in colour])]
    axis.text(x, y, text, fontsize=7, va="bottom", color=ink, bbox=box, parse_math=False)


# ---- DETR's names ----


def plot_logs(
    logs: PurePath | Sequence[PurePath],
    fields: Sequence[str] = ("class_error", "loss_bbox_unscaled", "mAP"),
    ewm_col: float = 0,
    log_name: str = "log.txt",
) -> None:
    """Plot numbers of training (solid) and validation (dashed) over epochs as a pyplot figure.

    Epochs are counted from 1, as in all that people read; the log counts them from 0.

    Args:
        logs: Folders of runs.
        fields: Names in log.txt without train_ and test_. "mAP" is COCO's AP at IoU 0.5.
        ewm_col: Centre of mass of the exponential moving average, in rows; 0 for none.
        log_name: The file's name in each folder.

    Raises:
        ValueError: `logs` holds something that is not a path.
        UserError: A file cannot be read.
    """
    logs = [logs] if isinstance(logs, PurePath) else list(logs)
    if not all(isinstance(folder, PurePath) for folder in logs):
        raise ValueError("plot_logs: logs must be a list of pathlib paths")
    axes = plt.subplots(ncols=len(fields), figsize=(16, 5), squeeze=False)[1][0]
    for run, folder in enumerate(logs):
        try:
            text = read_text(Path(folder) / log_name)
        except FileNotFoundError as error:
            raise UserError(f"{Path(folder) / log_name}: no such log") from error
        rows = [json.loads(line) for line in text.splitlines()]
        for axis, field in zip(axes, fields, strict=True):
            lines = {f"train_{field}": "-", f"test_{field}": "--"}
            if field == "mAP":
                lines = {"test_coco_eval_bbox": "-"}
            for name, style in lines.items():
                found = [(row["epoch"] + 1, row[name]) for row in rows if name in row]
                values = [value[1] if field == "mAP" else value for _, value in found]
                label = Path(folder).name if style == "-" else None
                axis.plot(
                    [epoch for epoch, _ in found], _moving_average(values, ewm_col), style,
                    color=_curve_colour(run), label=label,
                )  # fmt: skip
    for axis, field in zip(axes, fields, strict=True):
        axis.legend()
        axis.set_title(field)
        axis.set_xlabel("epoch")


def _curve_colour(number: int) -> tuple[float, float, float]:
    colours_of_curves = plt.colormaps["tab10"].colors
    return colours_of_curves[number % len(colours_of_curves)]


def _moving_average(values: Sequence[float], centre_of_mass: float) -> np.ndarray:
    """Return pandas' `ewm(com=centre_of_mass).mean()`."""
    decay = centre_of_mass / (1 + centre_of_mass)
    total = weight = 0.0
    means = []
    for value in values:
        total, weight = decay * total + value, decay * weight + 1
        means.append(total / weight)
    return np.array(means)


def plot_precision_recall(
    files: Sequence[PurePath], naming_scheme: str = "iter"
) -> tuple[plt.Figure, np.ndarray]:
    """Plot precision and scores over recall at IoU 0.5, as means over all classes.

    Args:
        files: Files that runs write to eval/ in their output folder.
        naming_scheme: "iter" to name curves like the files, "exp_id" like their runs' folders.

    Returns:
        The figure and its two axes.

    Raises:
        ValueError: There is no such naming_scheme.
    """
    if naming_scheme not in ("iter", "exp_id"):
        raise ValueError(f"naming_scheme must be iter or exp_id, is {naming_scheme!r}")
    names = [file.stem if naming_scheme == "iter" else file.parts[-3] for file in files]
    figure, axes = plt.subplots(ncols=2, figsize=(16, 5))
    for i, (file, name) in enumerate(zip(files, names)):
        arrays = _load_evaluation(file)
        # precision and scores: (IoU, recall, class, area, detections); recall has no second axis.
        precision, scores = (
            arrays[key][0, :, :, 0, -1].mean(axis=1) for key in ("precision", "scores")
        )
        recall_thresholds = np.linspace(0, 1, len(precision))
        mean_precision, recall = precision.mean(), arrays["recall"][0, :, 0, -1].mean()
        f1 = 2 * mean_precision * recall / (mean_precision + recall + 1e-8)
        print(
            f"{naming_scheme} {name}: mAP@50={mean_precision * 100:5.1f}, "
            f"score={scores.mean():.3f}, f1={f1:.3f}"
        )
        for axis, values in zip(axes, (precision, scores)):
            axis.plot(recall_thresholds, values, color=_curve_colour(i), label=name)
    for axis, title in zip(axes, ("Precision / Recall", "Scores / Recall")):
        axis.set_title(title)
        axis.legend()
    return figure, axes


def _load_evaluation(file: PurePath) -> dict:
    """Read pycocotools' arrays without running code."""
    from pycocotools.cocoeval import Params

    multiarray = getattr(np, "_core", None) or np.core  # NumPy 2 and 1
    multiarray = multiarray.multiarray
    allowed = [Params, np.ndarray, np.dtype, type(np.dtype("f8")), type(np.dtype("i8"))]
    allowed += [
        (function, f"{module}.multiarray.{function.__name__}")
        for function in (multiarray._reconstruct, multiarray.scalar)
        for module in ("numpy._core", "numpy.core")
    ]
    with torch.serialization.safe_globals(allowed):
        return torch.load(file, map_location="cpu", weights_only=True)
