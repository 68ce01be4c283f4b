"""What predict and show_run say and draw when no score reaches the threshold."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from detector import Detector, load_detector
from tests.helpers.tool_runs import run_tool
from tools import predict
from tools.image_files.low_scores import LowScores, nothing_found, rounded_down, split_by_score
from util.pictures.drawing import drawn_on


def test_the_threshold_to_try_is_reached():
    for score, two, one in (
        (0.4996, "0.49", "0.4"), (0.1, "0.1", "0.1"), (0.010869, "0.01", "0.01"),
        (0.99999, "0.99", "0.9"), (3e-6, "3e-06", "3e-06"), (0.0, "0", "0"),
    ):  # fmt: skip
        assert (rounded_down(score, 2), rounded_down(score, 1)) == (two, one)
        assert score >= float(one) > score / 2 or score == 0
    assert nothing_found(0.5, 0.4996, "cat", "a.jpg") == (
        "no score reaches --threshold 0.5: the best is 0.49 (cat in a.jpg); try --threshold 0.4"
    )


def test_scores_that_are_no_numbers_are_neither_kept_nor_best():
    scores = torch.tensor([float("nan"), 0.5, 0.4, 0.3, 0.2])
    found = {"scores": scores, "names": list("abcde"), "masks": torch.ones(5, 2, 2)}
    kept, best = split_by_score(found, 0.5)
    assert kept["names"] == ["b"] and kept["masks"].shape == (1, 2, 2) and best["names"] == []
    kept, best = split_by_score(found, 0.6)
    assert kept["names"] == [] and best["names"] == ["b", "c", "d"] and "masks" not in best
    low = LowScores(0.6)
    assert low.explanation(5) is None
    low.add("1.jpg", {"scores": scores[:0], "names": []})
    low.add("2.jpg", best)
    assert "on 2 of 5 image(s): the best there is 0.5 (b in 2.jpg)" in low.explanation(5)


def test_nothing_found_on_any_image(checkpoint, files, tmp_path):
    """One line, exit code 0, no results, and the best three of each image are drawn."""
    run = run_tool(predict, "--resume", checkpoint, *files, "--output_dir", tmp_path / "out",
                   "--device", "cpu", "--batch_size", "3")  # fmt: skip
    assert run.code == 0 and run.err == "" and "3 image(s), 0 detection(s)" in run.out
    found = load_detector(checkpoint, "cpu")(list(map(str, files)), threshold=0)
    best = max(found, key=lambda one: one["scores"][0])
    said = re.fullmatch(
        r"no score reaches --threshold 0\.5: the best is (\S+) \(([\w ]+) in (\S+)\); "
        r"try --threshold (\S+)", run.out.splitlines()[-1],
    )  # fmt: skip
    assert 0 <= best["scores"][0] - float(said[1]) < 0.01
    assert said[2] == best["names"][0]
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == []
    for file, detections in zip(files, found, strict=True):
        shown = {name: value[:3] for name, value in detections.items()}
        with Image.open(file) as image, Image.open(tmp_path / "out" / file.name) as drawn:
            three, all_of_them = (drawn_on(image, each, 0.5) for each in (shown, detections))
            assert closeness(three, drawn) < closeness(all_of_them, drawn) / 2
    again = run_tool(predict, "--resume", checkpoint, *files, "--output_dir", tmp_path / "again",
                     "--device", "cpu", "--threshold", said[4])  # fmt: skip
    assert "no score reaches --threshold 0.5" not in again.out
    assert json.loads((tmp_path / "again" / "results.json").read_text())


def closeness(one, other):
    """The root of the mean squared difference of two pictures."""
    difference = np.asarray(one).astype(float) - np.asarray(other)
    return (difference**2).mean() ** 0.5


@pytest.fixture
def scores_of(monkeypatch):
    """Let detectors give the detections of the n-th image these scores."""

    def use(scores):
        remaining = iter(scores)
        kept = Detector.filter_detections

        def rescored(self, result, threshold):
            result["scores"] = torch.full_like(result["scores"], next(remaining))
            return kept(self, result, threshold)

        monkeypatch.setattr(Detector, "filter_detections", rescored)

    return use


def test_nothing_found_on_some_images(checkpoint, files, tmp_path, scores_of):
    """Only a line more: neither results nor pictures change."""
    scores_of([0.25, 0.9, 0.375])
    run = run_tool(predict, "--resume", checkpoint, *files, "--output_dir", tmp_path / "out",
                   "--device", "cpu")  # fmt: skip
    assert run.code == 0
    line = "no score reaches --threshold 0.5 on 2 of 3 image(s): the best there is 0.37 ("
    assert run.out.splitlines()[-1].startswith(line) and f" in {files[2].name})" in run.out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {entry["file_name"] for entry in results} == {files[1].name}
    for number in (0, 2):
        with Image.open(files[number]) as image:
            enlarged = drawn_on(image, {"scores": torch.zeros(0), "labels": torch.zeros(0),
                                        "boxes": torch.zeros(0, 4), "names": []})  # fmt: skip
        with Image.open(tmp_path / "out" / files[number].name) as drawn:
            assert closeness(enlarged, drawn) < 5
