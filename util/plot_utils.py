"""Pictures of detections and segments on images, and DETR's plots of logs and evaluations."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from util.errors import UserError
from util.files import atomic_write, read_text

if "MPLBACKEND" not in os.environ:  # notebooks set it
    matplotlib.use("Agg")  # pictures are written to files, there may be no display


def draw_detections(
    images: Sequence[Image.Image],
    detections: Sequence[dict],
    names: dict[int, str],
    path: Path,
    threshold: float = 0.5,
) -> None:
    """Write images in a grid with their boxes, classes, scores and masks as a PNG.

    Args:
        detections: Of each image what `models.postprocess` returns, in image pixels; masks
            (Q, H, W) bool may be missing.
        names: Class names by label.
        threshold: Detections of a lower score are not drawn.
    """
    with _grid(images, path) as axes:
        for axis, found in zip(axes, detections, strict=True):
            drawn = (found["scores"] >= threshold).nonzero().flatten().tolist()
            for i in drawn:
                label, score = found["labels"][i].item(), found["scores"][i].item()
                x0, y0, x1, y1 = found["boxes"][i].tolist()
                colour = colour_of(label)
                if "masks" in found:
                    mask = found["masks"][i].cpu().numpy()
                    _tint(axis, mask, colour)
                    _tint(axis, _edges(mask), (1, 1, 1), alpha=1)
                axis.add_patch(
                    plt.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=colour, linewidth=2)
                )
                draw_caption(axis, x0, y0, f"{names.get(label, label)} {score:.2f}", colour)


def draw_maps(
    images: Sequence[Image.Image], maps: Sequence[dict], names: dict[int, str], path: Path
) -> None:
    """Write images in a grid with their panoptic segments as a PNG.

    Args:
        maps: one an image, as from `models.postprocess.PostProcessPanoptic`.
        names: category names by id.
    """
    with _grid(images, path) as axes:
        for axis, found in zip(axes, maps, strict=True):
            ids = found["ids"].numpy()
            for segment in found["segments_info"]:
                _tint(axis, ids == segment["id"], colour_of(segment["category_id"]))
            _tint(axis, _edges(ids), (1, 1, 1), alpha=1)
            for segment in found["segments_info"]:
                rows, columns = (ids == segment["id"]).nonzero()
                label, middle = segment["category_id"], len(rows) // 2
                caption = f"{names.get(label, label)}"
                draw_caption(axis, columns[middle], rows[middle], caption, colour_of(label))


@contextlib.contextmanager
def _grid(
    images: Sequence[Image.Image], path: Path, columns: int = 6
) -> Iterator[Sequence[plt.Axes]]:
    """Yield axes that show one image each; write the figure to `path` when the context ends."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.6 * columns, 2.6 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    used = axes.flat[: len(images)]
    for axis, image in zip(used, images, strict=True):
        axis.imshow(image)
    yield used
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=80)
    plt.close(figure)


def colour_of(label: int) -> tuple[float, float, float]:
    """Return the colour of a class, as red, green and blue from 0 to 1."""
    colours = plt.colormaps["tab20"].colors
    return colours[label % len(colours)]


def _tint(
    axis: plt.Axes, mask: np.ndarray, colour: tuple[float, float, float], alpha: float = 0.5
) -> None:
    """Draw a colour over the pixels of a mask (H, W) bool."""
    tint = np.zeros((*mask.shape, 4))
    tint[mask] = (*colour, alpha)
    axis.imshow(tint)


def _edges(values: np.ndarray) -> np.ndarray:
    """Return, as (H, W) bool, the pixels whose right or lower neighbour has another value."""
    edges = np.zeros(values.shape, dtype=bool)
    edges[:-1] = values[:-1] != values[1:]
    edges[:, :-1] |= values[:, :-1] != values[:, 1:]
    return edges


def draw_caption(
    axis: plt.Axes, x: float, y: float, text: str, colour: tuple[float, float, float]
) -> None:
    """Draw text on a coloured background with its lower left corner at x, y of the axes."""
    box = {"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.8}
    axis.text(x, y, text, fontsize=7, va="bottom", bbox=box)


def drawn_on(image: Image.Image, found: dict) -> Image.Image:
    """Return a copy of an image with its detections.

    Args:
        found: What `detector.Detector` returns for the image.
    """
    if not found["names"]:
        return image.copy()
    colours = [
        tuple(int(255 * part) for part in colour_of(label)) for label in found["labels"].tolist()
    ]
    canvas = pil_to_tensor(image)
    if "masks" in found:
        canvas = draw_segmentation_masks(canvas, found["masks"], alpha=0.5, colors=colours)
    unit = max(min(image.size) // 40, 10)  # pixels
    canvas = draw_bounding_boxes(canvas, found["boxes"], colors=colours, width=1 + unit // 10)
    drawn = to_pil_image(canvas)
    draw = ImageDraw.Draw(drawn)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), unit)
    rows = zip(
        found["boxes"].tolist(), found["names"], found["scores"].tolist(), colours, strict=True
    )
    for (x0, y0, _, _), name, score, colour in rows:
        caption, corner = f"{name} {score:.2f}", (x0, max(y0 - unit, 0))
        draw.rectangle(draw.textbbox(corner, caption, font), fill=colour)
        draw.text(corner, caption, "black", font)
    return drawn


# ---- DETR's names ----


def plot_logs(
    logs: PurePath | Sequence[PurePath],
    fields: Sequence[str] = ("class_error", "loss_bbox_unscaled", "mAP"),
    ewm_col: float = 0,
    log_name: str = "log.txt",
) -> None:
    """Plot numbers of training (solid) and validation (dashed) over epochs as a pyplot figure.

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
                found = [(row["epoch"], row[name]) for row in rows if name in row]
                values = [value[1] if field == "mAP" else value for _, value in found]
                label = Path(folder).name if style == "-" else None
                axis.plot(
                    [epoch for epoch, _ in found], _moving_average(values, ewm_col), style,
                    color=colour_of(2 * run), label=label,
                )  # fmt: skip
    for axis, field in zip(axes, fields, strict=True):
        axis.legend()
        axis.set_title(field)


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
            axis.plot(recall_thresholds, values, color=colour_of(2 * i), label=name)
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
