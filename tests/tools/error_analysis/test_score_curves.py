"""Precision, recall and F1 by threshold: numbers worked out by hand, and the report's plots."""

import json

import numpy as np
import pytest

from datasets.annotations.instances import load_annotations
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.scoring_cases import as_arrays, random_case
from tests.helpers.tool_runs import run_tool
from tests.tools.error_analysis.report_pages import data_of, page_of
from tools import error_report
from tools.error_analysis.score_curves import ScoreCurve
from tools.error_analysis.summary import ErrorSummary


def curve_of(*found: tuple[float, bool], objects: int) -> ScoreCurve:
    scores, hits = zip(*found, strict=True)
    curve = ScoreCurve.of(np.array(scores, np.float32), np.array(hits), objects)
    assert curve is not None
    return curve


def test_numbers_worked_out_by_hand():
    """Of 4 objects; two detections have the same score, so that one threshold is for both."""
    curve = curve_of(
        (0.25, False), (0.875, True), (0.5, True), (0.75, False), (0.5, True), objects=4
    )
    assert curve.scores.tolist() == [0.875, 0.75, 0.5, 0.25]
    assert curve.precision.tolist() == [1, 1 / 2, 3 / 4, 3 / 5]
    assert curve.recall.tolist() == [1 / 4, 1 / 4, 3 / 4, 3 / 4]
    # 2 P R / (P + R): 2 x 1/4 / 5/4, 2 x 1/8 / 3/4, 2 x 9/16 / 6/4, 2 x 9/20 / 27/20
    assert curve.f1 == pytest.approx([2 / 5, 1 / 3, 3 / 4, 2 / 3])
    assert curve.best == 2 and curve.best_threshold() == 0.5


def test_the_threshold_has_as_few_digits_as_keep_the_same_detections():
    def best(*found):
        return curve_of(*found, objects=1).best_threshold()

    assert best((0.4375, True)) == 0.4  # also 0 would do, but says nothing
    assert best((0.4375, True), (0.25, False)) == 0.4
    assert best((0.4375, True), (0.4, False)) == 0.43  # 0.4 as float32 is a little above 0.4
    assert best((0.4375, True), (0.43725, False)) == 0.4375
    near = np.nextafter(np.float32(0.4375), np.float32(0))
    assert near < np.float32(best((0.4375, True), (near, False))) <= np.float32(0.4375)


def test_all_digits_of_the_threshold_are_printed():
    curve = curve_of((0.99999988, True), (0.99999976, False), objects=1)
    printed = error_report.best_f1(curve, 0.5).split("--threshold ")[1].split(" ")[0]
    assert np.float32(0.99999976) < np.float32(printed) <= np.float32(0.99999988)


def test_no_detection_is_right():
    assert ScoreCurve.of(np.zeros(0), np.zeros(0, bool), 3) is None
    assert ScoreCurve.of(np.ones(1), np.zeros(1, bool), 3) is None
    assert curve_of((0.5, True), objects=3).points() == [0]


def test_few_points_are_drawn_of_many():
    generator = np.random.default_rng(0)
    scores = generator.random(20_000).astype(np.float32) ** 3
    curve = ScoreCurve.of(scores, generator.random(20_000) < scores, 9000)
    assert curve is not None
    places = curve.points()
    assert len(places) < 210 and curve.best in places
    assert places[0] == 0 and places[-1] == len(curve.scores) - 1
    for column in (curve.scores, curve.recall):
        assert np.abs(np.diff(column[places])).max() < 0.021


@pytest.mark.parametrize("seed", range(3))
def test_a_curve_is_what_summaries_with_each_threshold_say(seed, tmp_path):
    """Of all classes and of each, crowds included."""
    content, detections = random_case(seed)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    known, found = load_annotations(path), as_arrays(detections).by_image()
    summary = ErrorSummary(known, found, {})
    labels = [None, *summary.names]
    curves = {label: summary.curve(label) for label in labels}
    assert sum(curve is not None for curve in curves.values()) > 2
    for threshold in np.unique(np.quantile(found.scores, [0, 0.2, 0.5, 0.8, 1], method="nearest")):
        other = ErrorSummary(known, found, {}, threshold=float(threshold))
        for label, curve in curves.items():
            if curve is None:
                continue
            place = (curve.scores >= threshold).sum() - 1
            said = other.precision(label), other.recall(label)
            shown = (curve.precision[place], curve.recall[place]) if place >= 0 else (None, 0)
            assert said == shown
    best = curves[None]
    other = ErrorSummary(known, found, {}, threshold=best.best_threshold())
    both = other.precision(), other.recall()
    assert 2 / sum(1 / share for share in both) == pytest.approx(best.f1.max())


def test_the_command_prints_the_best_threshold(args, shapes, tmp_path):
    path = write_checkpoint(
        tmp_path / "plain.pth", args, "--num_classes", "6", "--coco_path", shapes
    )
    page = tmp_path / "page.html"
    run = run_tool(error_report, path, "--output", page, "--device", "cpu", "--images", "0")
    assert run.code == 0
    curve = data_of(page)["curves"][0]
    _, precision, recall, f1 = curve["points"][curve["best"]]
    (line,) = (line for line in run.out.splitlines() if line.startswith("best F1"))
    assert line == (
        f"best F1 at an IoU of 0.5: {f1:.3f} with --threshold {curve['threshold']} "
        f"(precision {precision:.3f}, recall {recall:.3f})"
    )


# ---- in a browser ----


def surer_is_better(index, label, box):
    """Discs are found with a score of 0.9, others with 0.6; each has a false one with 0.3."""
    away = [box[0] + 200, *box[1:]]
    return [(label, box, 0.9 if label == 1 else 0.6), (label, away, 0.3)]


@pytest.mark.browser
def test_curves_of_a_chosen_class(shapes, tmp_path, open_page):
    summary = page_of(shapes, tmp_path / "page.html", surer_is_better, most=0)
    discs = int((summary.annotations.labels[~summary.annotations.crowds] == 1).sum())
    objects = int((~summary.annotations.crowds).sum())
    assert 0 < discs < objects
    driver = open_page(tmp_path / "page.html")

    def best():
        return driver.find_element("id", "best").text

    def points(selector):
        (curve, *_) = driver.find_elements("css selector", f"{selector} polyline")
        return [tuple(map(float, place.split(",")))
                for place in curve.get_attribute("points").split(" ")]  # fmt: skip

    def marked(selector):
        (mark,) = driver.find_elements("css selector", f"{selector} circle.best")
        return float(mark.get_attribute("cx")), float(mark.get_attribute("cy"))

    assert best() == "Best F1 1.000 at a threshold of 0.6: precision 1.000, recall 1.000."
    x, y = marked("#precision-recall")
    (x0, y0), *_, (x2, y2) = points("#precision-recall")
    # From the discs, all right, to all objects at the right, and half of what is found is false.
    assert (x0 - 52) / (390 - 52) == pytest.approx(discs / objects, abs=1e-3)
    assert (x, y) == (x2, y0) == (390, 8) and y2 == pytest.approx((8 + 198) / 2)
    assert marked("#by-score") == (pytest.approx(52 + 0.6 * 338, abs=0.1), 8)
    driver.find_element("css selector", "#curve-class option[value='1']").click()
    assert best().startswith("Best F1 1.000 at a threshold of 0.8:")
    assert marked("#by-score")[0] == pytest.approx(52 + 0.9 * 338, abs=0.1)
    assert len(driver.find_elements("css selector", "#by-score polyline")) == 3


@pytest.mark.browser
def test_a_page_without_detections_has_no_curves(shapes, tmp_path, open_page):
    page_of(shapes, tmp_path / "page.html", lambda *_: [], most=0)
    assert data_of(tmp_path / "page.html")["curves"] == [None] * 6
    driver = open_page(tmp_path / "page.html")
    assert driver.find_element("id", "best").text == "No detection is right."
    assert not driver.find_elements("css selector", "#curves svg")
