"""The page of error_page.py, whose script in assets/ reads plain values."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from tools import error_analysis
from tools.error_analysis.pictures import data_url, image_url
from tools.html_page.frame import render_page

from .labelled import Labelled, read_stored
from .scores import Scores, largest_confusions

ASSETS = Path(__file__).parent / "assets"
STYLE = Path(error_analysis.__file__).parent / "assets" / "page.css"  # of the other report
COLUMNS = ("class", "images", "right", "mean loss", "most often taken for", "times")
MOST_PAIRS = 100  # rows of the table of confusions
MOST_NAMED = 40  # classes with names beside the matrix
MOST_COUNTED = 20  # classes with counts in the matrix


def error_page(
    title: str,
    facts: dict[str, str],
    scores: Scores,
    labelled: Labelled,
    names: list[str],
    images: Iterable[int],
) -> str:
    """Return the HTML page of a classifier's errors.

    Args:
        title: of the browser's window.
        facts: where the numbers come from, by name.
        names: of the classes.
        images: places of those to show.
    """
    data = page_data(facts, scores, names)
    data["cards"] = [image_card(scores, labelled, place) for place in images]
    return render_page(ASSETS, title, data, styles=[STYLE])


def page_data(facts: dict[str, str], scores: Scores, names: list[str]) -> dict[str, Any]:
    """Return all data of the page but the images."""
    names = different_names(names)
    confusion, seen = scores.confusion(), scores.seen
    share = [float(values[seen].mean()) for values in (scores.right, scores.in_top5)]
    return {
        "facts": list(facts.items()),
        "tiles": [
            ("top-1 accuracy", f"{share[0]:.2%}"),
            ("top-5 accuracy", f"{share[1]:.2%}"),
            ("mean loss", f"{scores.loss[seen].mean():.4f}"),
            ("images", f"{seen.sum():,}"),
        ],
        "names": names,
        "matrix": matrix_picture(confusion, names),
        "pairs": [
            [row, column, count, count / int(confusion[row].sum()), int(confusion[column, row])]
            for row, column, count in largest_confusions(confusion, MOST_PAIRS)
        ],
        "columns": COLUMNS,
        "classes": class_rows(scores, confusion, names),
    }


def different_names(names: list[str]) -> list[str]:
    """Return names, those that occur more than once with the number of their class."""
    return [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def class_rows(scores: Scores, confusion: np.ndarray, names: list[str]) -> list[list]:
    """Return the row of each class that has images; columns are COLUMNS."""
    rows = []
    for label, name in enumerate(names):
        counts = confusion[label].copy()
        total, right = int(counts.sum()), int(counts[label])
        if not total:
            continue
        counts[label] = 0
        other = int(counts.argmax())
        loss = float(scores.loss[scores.seen & (scores.labels == label)].mean())
        mistake = [names[other], int(counts[other])] if counts[other] else ["", 0]
        rows.append([name, total, right / total, loss, *mistake])
    return rows


def image_card(scores: Scores, labelled: Labelled, place: int) -> dict[str, Any]:
    """Return an image with what it is and what it is taken for."""
    path = labelled.paths[place]
    return {
        "file": str(path.relative_to(labelled.folder)),
        "truth": int(scores.labels[place]),
        "found": int(scores.predicted[place]),
        "probability": float(scores.probability[place]),
        "loss": float(scores.loss[place]),
        "picture": image_url(read_stored(path)),
    }


def matrix_picture(confusion: np.ndarray, names: list[str]) -> str:
    """Return a picture of the confusion matrix as a data: URL.

    Rows are true classes, columns predicted ones; colours are shares of the row. Names and counts
    are written where there is room for them.
    """
    count = len(names)
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    side = min(max(0.34 * count + 2.5, 5), 11)
    figure, axis = plt.subplots(figsize=(side + 0.8, side), layout="constrained")
    shown = axis.imshow(shares, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    axis.set(xlabel="predicted class", ylabel="true class")
    if count <= MOST_NAMED:
        short = [f"{name:.24}".replace("$", r"\$") for name in names]
        axis.set_xticks(range(count), short, rotation=90, fontsize=8)
        axis.set_yticks(range(count), short, fontsize=8)
    if count <= MOST_COUNTED:
        for (row, column), value in np.ndenumerate(confusion):
            colour = "white" if shares[row, column] < 0.6 else "black"
            if value:
                axis.text(column, row, value, ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(shown, shrink=0.7).set_label("share of the true class")
    file = io.BytesIO()
    figure.savefig(file, dpi=100, format="png")
    plt.close(figure)
    return data_url(Image.open(file).convert("RGB"), "PNG")
