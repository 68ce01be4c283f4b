"""The picture of a study: what its panels hold, by hand."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from tests.tools.comparison.made_studies import AP, write_run, write_runs, write_study
from tools.comparison.found_runs import find_runs
from tools.comparison.picture import draw_study
from tools.comparison.results import Results
from tools.comparison.study import read_study


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Return a function that draws a study and returns the picture's axes, left open."""
    made, close = [], plt.close
    monkeypatch.setattr(plt, "close", made.append)

    def draw(study, root):
        draw_study(Results(study, find_runs(study, root)), tmp_path / "study.png")
        return made[-1].axes

    yield draw
    for figure in made:
        close(figure)


@pytest.fixture
def drawn(draw, tmp_path):
    """Return the axes of a study's picture, and the file."""
    study = read_study(write_study(tmp_path))
    return draw(study, write_runs(tmp_path / "out", study.path)), tmp_path / "study.png"


def test_differences_and_curves(drawn):
    (differences, curves), path = drawn
    interval, seeds, mean, zero = differences.lines
    assert interval.get_xdata() == pytest.approx([0.0751586, 0.1248414], abs=1e-6)
    assert list(seeds.get_xdata()) == pytest.approx([0.1, 0.09, 0.11])
    assert list(mean.get_xdata()) == pytest.approx([0.1]) and list(zero.get_xdata()) == [0, 0]
    assert [label.get_text() for label in differences.get_yticklabels()] == ["box"]
    assert differences.get_title(loc="left") == "AP of boxes: difference to none"
    none, box = curves.lines
    assert list(box.get_xdata()) == [1, 2, 3]  # the first epoch is 1, as people count
    assert list(box.get_ydata()) == pytest.approx([0.3, 1.7 / 3, 0.62])
    assert list(none.get_ydata()) == pytest.approx([0.1, 1.1 / 3, 0.52])
    edges = curves.collections[1].get_paths()[0].vertices  # of the band of box
    for epoch, low, high in ((1, 0.2, 0.5), (2, 0.5, 0.6), (3, 0.6, 0.65)):
        heights = edges[np.isclose(edges[:, 0], epoch), 1]
        assert (heights.min(), heights.max()) == pytest.approx((low, high))
    (legend,) = curves.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["none", "box"]
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > 2 * picture.height


def test_one_evaluation_makes_no_curve(draw, tmp_path):
    study = read_study(write_study(tmp_path, ("--epochs 3", "--epochs 1")))
    for name, seeds in AP.items():
        for seed, scores in seeds.items():
            write_run(tmp_path / "out", study, name, seed, scores[-1:])
    (differences,) = draw(study, tmp_path / "out")
    assert list(differences.lines[1].get_xdata()) == pytest.approx([0.1, 0.09, 0.11])
