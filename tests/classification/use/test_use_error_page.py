"""error_page.py: counts and losses against loops, and the page that shows them."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo

from classification.classifier import load_classifier
from classification.tools import error_page
from classification.tools.confusions.labelled import find_labelled
from classification.tools.confusions.page import class_rows, different_names, matrix_picture
from classification.tools.confusions.scores import Scores, largest_confusions
from tests.classification.tiny_deit import CLASSES, drawn, tiny_model, write_checkpoint
from tests.helpers.tool_runs import line_of, run_tool
from util.errors import UserError


@pytest.fixture
def trained(tmp_path):
    return write_checkpoint(tmp_path / "c.pth", tiny_model(embed_dim=192, num_heads=3))


@pytest.fixture
def data(tmp_path):
    """Write 2, 3, 4, 5 and 6 images of the classes, and a file that is none."""
    for number, name in enumerate(CLASSES):
        folder = tmp_path / "data" / "val" / name
        folder.mkdir(parents=True)
        for i in range(2 + number):
            drawn(7 * number + i, 40 + 9 * i, 50).save(folder / f"{i}.png")
        (folder / "notes.txt").write_text("no image")
    return tmp_path / "data"


def page_of(path):
    found = re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(found[1])


def test_numbers_are_those_of_a_loop(trained, data, tmp_path):
    out = tmp_path / "e.html"
    options = ["--output", out, "--batch_size", "4", "--num_workers", "0", "--device", "cpu"]
    run = run_tool(error_page, trained, data, *options, "--per_class", "2", "--images", "7")
    assert run.code == 0, run
    classifier = load_classifier(trained, "cpu")
    counts = {}
    images = []
    for label, name in enumerate(CLASSES):
        for path in sorted((data / "val" / name).glob("*.png")):
            with Image.open(path) as opened:
                pixels = classifier.transform(opened.convert("RGB"))
            with torch.no_grad():
                logits = classifier.model(pixels[None])[0].tolist()
            powers = [math.exp(value) for value in logits]
            shares = [power / sum(powers) for power in powers]
            found = max(range(5), key=lambda i: shares[i])
            counts[label, found] = counts.get((label, found), 0) + 1
            images.append((-math.log(shares[label]), label, found, shares[found], path))
    page = page_of(out)
    right = sum(counts.get((i, i), 0) for i in range(5))
    assert f"e.html: {right} of 20 image(s) right, {right / 20:.2%}" in run.out
    tiles = dict(page["tiles"])
    assert tiles["top-1 accuracy"] == f"{right / 20:.2%}" and tiles["top-5 accuracy"] == "100.00%"
    assert float(tiles["mean loss"]) == pytest.approx(sum(i[0] for i in images) / 20, abs=1e-4)
    assert page["names"] == CLASSES and page["columns"][0] == "class"
    assert {(r, c): n for r, c, n, *_ in page["pairs"]} == {
        pair: n for pair, n in counts.items() if pair[0] != pair[1]
    }
    for row, column, count, share, reverse in page["pairs"]:
        assert share == count / (2 + row) and reverse == counts.get((column, row), 0)
    for label, (name, total, share, loss, *_) in enumerate(page["classes"]):
        assert (name, total) == (CLASSES[label], 2 + label)
        assert share == counts.get((label, label), 0) / total
        assert loss == pytest.approx(sum(i[0] for i in images if i[1] == label) / total, rel=1e-4)
    kept, left = [], dict.fromkeys(range(5), 2)
    for image in sorted(images, key=lambda image: -image[0]):
        if left[image[1]]:
            left[image[1]] -= 1
            kept.append(image)
    for card, image in zip(page["cards"], kept[:7], strict=True):
        loss, label, found, probability, path = image
        assert (card["truth"], card["found"]) == (label, found)
        assert card["file"] == f"{CLASSES[label]}/{path.name}"
        assert card["loss"] == pytest.approx(loss, rel=1e-4)
        assert card["probability"] == pytest.approx(probability, rel=1e-4)
        assert card["picture"].startswith("data:image/jpeg;base64,")


def test_confusions_are_counted():
    random = np.random.default_rng(0)
    labels = random.integers(0, 8, 60)
    logits = torch.from_numpy(random.normal(size=(60, 8)))
    scores = Scores(labels.tolist(), 8)
    for places in ([*range(20)], [*range(40, 57)], [*range(20, 40)]):  # three were not read
        scores.add(places, logits[places])
    wanted = np.zeros((8, 8), int)
    for i in range(57):
        wanted[labels[i], int(logits[i].argmax())] += 1
    assert (scores.confusion() == wanted).all() and scores.seen.sum() == 57
    order = [sorted(range(8), key=lambda c: -logits[i, c]) for i in range(57)]
    assert scores.in_top5[:57].tolist() == [labels[i] in order[i][:5] for i in range(57)]
    assert not set(scores.worst(60, 60)) & {57, 58, 59}
    assert not Scores([0, 0], 8).right.any()  # before anything is read
    pairs = largest_confusions(wanted, 5)
    off = sorted((wanted[r, c] for r in range(8) for c in range(8) if r != c), reverse=True)
    assert [count for *_, count in pairs] == off[:5]
    assert all(wanted[r, c] == count and r != c for r, c, count in pairs)
    assert largest_confusions(np.diag([3, 4]), 5) == []
    scores = Scores([1, 1], 3)
    scores.add([0, 1], torch.tensor([[2.0, 1, 0], [0, 1, 2]]))
    (row,) = class_rows(scores, scores.confusion(), ["a", "b", "c"])  # the others have no images
    assert row[:3] == ["b", 2, 0] and row[4:] == ["a", 1]


def test_which_class_a_folder_is(tmp_path):
    def labels(folders, classes):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for name in folders:
            (root / name).mkdir(parents=True)
            drawn(height=20, width=20).save(root / name / "a.JPEG", "JPEG")
        return find_labelled(root, classes, "c.pth").labels

    assert labels(["b", "c"], ["c", "a", "b"]) == [2, 0]  # by their names
    assert labels(["x", "y", "z"], ["c", "a", "b"]) == [0, 1, 2]  # as in training
    wnids = ImageNetInfo().label_names()
    names = [f"name {i}" for i in range(1000)]
    assert labels([wnids[7], wnids[300]], names) == [7, 300]
    with pytest.raises(UserError, match=r"'x' is no class of c\.pth, and its 2 folders are not"):
        labels(["a", "x"], ["a", "b", "c"])
    assert different_names(["crane", "tench", "crane"]) == ["crane (0)", "tench", "crane (2)"]


def test_the_matrix_as_a_picture():
    """With more classes than names have room, and names that are formulas to Matplotlib."""
    confusion = np.eye(45, dtype=int) * 4
    one, other = (matrix_picture(m, ["$n_{"] * 45) for m in (confusion, confusion[::-1]))
    assert one.startswith("data:image/png;base64,") and one != other
    assert matrix_picture(confusion[:2, :2], ["$n_{", "b"]).startswith("data:image/png")


def test_bad_files_are_named_and_left_out(trained, data, tmp_path):
    (data / "val" / "star" / "x.jpg").write_text("this is a text")
    out = tmp_path / "e.html"
    for _ in range(2):
        run = run_tool(error_page, trained, data / "val", "--output", out, "--force",
                       "--num_workers", "0", "--device", "cpu")  # fmt: skip
        assert run.code == 1 and "of 20 image(s) right" in run.out
        assert "x.jpg: not a readable image" in run.err
    assert "1 images, which are left out" in dict(page_of(out)["facts"])["not readable"]
    shutil.rmtree(data / "val")
    (data / "val" / "star").mkdir(parents=True)
    (data / "val" / "star" / "x.jpg").write_text("this is a text")
    run = run_tool(error_page, trained, data, "--output", out, "--force", "--num_workers", "0",
                   "--device", "cpu")  # fmt: skip
    assert "none of its images can be read" in run.err


def test_mistakes_are_answered_with_one_line(trained, data, checkpoint, tmp_path):
    (tmp_path / "empty" / "star").mkdir(parents=True)
    (tmp_path / "flat").mkdir()
    (tmp_path / "there.html").write_text("")
    out = ["--output", tmp_path / "e.html"]
    for given, says in (
        ([trained, tmp_path / "none", *out], "none: no such folder"),
        ([trained, tmp_path / "flat", *out], "flat: has no folder for each class"),
        ([trained, tmp_path / "empty", *out], "empty: no images in its folders"),
        ([tmp_path / "no.pth", data, *out], "no.pth: no such checkpoint file"),
        ([checkpoint, data, *out], "plain.pth: a detector's checkpoint"),
        ([trained, data, "--output", tmp_path / "there.html"], "there.html: exists"),
        ([trained, data, "--output", tmp_path / "no" / "e.html"], "not a file in a folder"),
    ):
        assert says in line_of(error_page, *given, "--num_workers", "0", "--device", "cpu")
    assert not (tmp_path / "e.html").exists()


@pytest.mark.browser
@pytest.mark.slow
def test_the_page_in_a_browser(trained, data, tmp_path, open_page):
    out = tmp_path / "e.html"
    assert run_tool(error_page, trained, data, "--output", out, "--num_workers", "0",
                    "--device", "cpu").code == 0  # fmt: skip
    driver, page = open_page(out), page_of(out)

    def texts(selector):
        return [element.text for element in driver.find_elements("css selector", selector)]

    def shown():
        cards = driver.find_elements("css selector", ".card")
        return [card.text.splitlines()[0] for card in cards if card.is_displayed()]

    assert len(texts("#pairs tbody tr")) == len(page["pairs"])
    assert texts("#classes tbody td:first-child") == CLASSES
    driver.find_elements("css selector", "#classes th button")[1].click()
    assert texts("#classes tbody td:first-child") == CLASSES[::-1]  # most images first
    assert shown() == [CLASSES[card["truth"]] for card in page["cards"]]
    driver.find_elements("css selector", "#classes td button")[0].click()
    assert set(shown()) == {"moon"} and texts("#status") == ["3 of 14 images of moon"]
    driver.find_element("css selector", "#clear").click()
    assert len(shown()) == 14
