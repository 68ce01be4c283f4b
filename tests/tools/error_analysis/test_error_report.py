"""The page of a detector's errors: its numbers, and what clicks do in a browser."""

import argparse
import json
import shutil

import pytest
import torch

from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.commands import error_line, run_ok
from tests.helpers.tool_runs import line_of
from tests.tools.error_analysis.report_pages import EVIL, data_of, mixed, page_of
from tools import error_report

REPORT = "tools/error_report.py"
KINDS = ["correct", "wrong class", "poor localisation", "class and place", "duplicate",
         "background", "missed"]  # fmt: skip


@pytest.fixture
def checkpoint(args, shapes, tmp_path):
    return write_checkpoint(
        tmp_path / "plain.pth", args, "--num_classes", "6", "--coco_path", shapes
    )


# ---- the command line ----


def test_a_page_of_a_checkpoint(checkpoint, shapes, tmp_path):
    page = tmp_path / "page.html"
    result = run_ok(REPORT, checkpoint, "--output", page, "--threshold", "0", "--images", "3")
    assert f"{page}: 3 worst of 13 image(s)" in result.stdout
    data = data_of(page)
    table = data["tables"][0][1]
    assert data["tables"][0][0] == "boxes" and table in result.stdout and table.count("\n") == 11
    truth = json.loads((shapes / "annotations/instances_val2017.json").read_text())
    objects = [a for a in truth["annotations"] if not a["iscrowd"]]
    facts = dict(data["facts"])
    assert facts["images"] == "13" and facts["objects"] == str(len(objects))
    assert facts["checkpoint"] == str(checkpoint) and "resnet10" in facts["model"]
    assert sum(kind["objects"] for kind in data["kinds"]) == len(objects)
    assert [kind["name"] for kind in data["kinds"]] == KINDS
    detections = sum(kind["detections"] for kind in data["kinds"])
    assert 100 < detections <= 13 * 8 == sum(map(sum, list(data["calibration"].values())[:2]))
    assert sum(row[1] for row in data["classes"]) == len(objects)
    assert [row[0] for row in data["classes"]] == ["disc", "square", "triangle", "star", "plus"]
    assert len(data["cards"]) == 3 and len(data["files"]) == 13
    weights = [shown["weight"] for shown in data["cards"]]
    assert weights == sorted(weights, reverse=True)
    assert all(shown["picture"].startswith("data:image/jpeg") for shown in data["cards"])


def test_mistakes_are_answered_with_one_line(checkpoint, tmp_path):
    out = ["--output", tmp_path / "page.html"]
    content = torch.load(checkpoint, weights_only=False)

    def changed(**options):
        other = argparse.Namespace(**{**vars(content["args"]), **options})
        path = tmp_path / f"other_{next(iter(options.values()))}.pth"
        torch.save({**content, "args": other}, path)
        return path

    torch.save([1, 2], tmp_path / "list.pth")
    for source, options, says in (
        (tmp_path / "none.pth", [], "none.pth: no such checkpoint file"),
        (tmp_path / "list.pth", [], "list.pth: not a detector's checkpoint"),
        (changed(coco_path="gone"), [], "--coco_path gone: no such folder"),
        (changed(coco_path=None), [], "--coco_path is missing"),
        (changed(backbone="newer"), [], "--backbone: invalid choice: 'newer'"),
        (changed(dataset_file="coco_panoptic"), [], "coco_panoptic.pth: trained on panoptic data"),
        (checkpoint, ["--iou", "0.1"], "--iou must be above 0.1"),
        (checkpoint, ["--output", tmp_path / "no" / "x.html"], "not a file in a folder"),
    ):
        assert says in line_of(error_report, source, *out, *options), says
    assert not (tmp_path / "page.html").exists()
    (tmp_path / "page.html").write_text("mine")
    line = error_line(REPORT, tmp_path / "list.pth", *out)
    assert "page.html: exists; choose another --output or add --force" in line
    assert (tmp_path / "page.html").read_text() == "mine"


# ---- the page's data ----


def test_numbers_of_the_page(shapes, tmp_path):
    page = tmp_path / "page.html"
    summary = page_of(shapes, page, mixed)
    data, known = data_of(page), summary.annotations
    label_of = [known.labels[known.objects(i)].tolist() for i in range(len(known))]
    called = sum(labels.count(1) for labels in label_of[1:5])
    missed = len(label_of[0])
    assert called > 0 and missed > 0 and len(label_of[6]) > 0
    of_objects = {kind["name"]: kind["objects"] for kind in data["kinds"]}
    assert (of_objects["wrong class"], of_objects["missed"]) == (called, missed)
    assert data["kinds"][4]["detections"] == len(label_of[6])
    cells = {(row, column): (count, images) for row, column, count, images in data["confusion"]}
    wrong = [i for i in range(1, 5) if 1 in label_of[i]]
    assert cells[0, 1] == (called, wrong)
    discs = sum(labels.count(1) for labels in label_of)
    row = dict(zip(data["columns"], data["classes"][0], strict=True))
    found = discs - called - label_of[0].count(1)
    assert row["objects"] == discs and row["recall"] == found / discs
    stats = dict(data["tables"])["boxes"]
    assert f"= {dict(data['tiles'])['AP']:0.3f}" in stats.splitlines()[0]
    by_image = {shown["image"]: shown for shown in data["cards"]}
    assert by_image[0]["weight"] == missed
    assert by_image[wrong[0]]["weight"] == pytest.approx(0.9 * label_of[wrong[0]].count(1))


# ---- in a browser ----


def visible(driver, selector=".card"):
    elements = driver.find_elements("css selector", selector)
    return [element for element in elements if element.is_displayed()]


def click(driver, selector):
    """As far down the page as the element may be."""
    element = driver.find_element("css selector", selector)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


@pytest.fixture
def opened(shapes, tmp_path, open_page):
    categories = [{"id": i, "name": n} for i, n in enumerate(
        (EVIL, "<b>square</b>", "&amp;", "star", "star"), start=1)]  # fmt: skip
    summary = page_of(shapes, tmp_path / "page.html", mixed, categories)
    return open_page(tmp_path / "page.html"), data_of(tmp_path / "page.html"), summary


@pytest.mark.browser
def test_classes_are_sorted_by_a_click(opened):
    driver, data, _ = opened
    assert driver.title == EVIL  # nothing has run that was a name

    def column(number):
        cells = driver.find_elements("css selector", f"#classes tbody td:nth-child({number})")
        return [cell.text for cell in cells]

    assert column(1) == [EVIL, "<b>square</b>", "&amp;", "star (4)", "star (5)"]
    given = column(9)
    click(driver, "#classes th:nth-child(9) button")
    assert column(9) == sorted(given, reverse=True) != given
    click(driver, "#classes th:nth-child(9) button")
    assert column(9) == sorted(given)
    click(driver, "#classes th:nth-child(1) button")
    assert column(1)[-2:] == ["star (4)", "star (5)"]
    aps = {row[0]: f"{row[2]:.3f}" for row in data["classes"]}
    assert dict(zip(column(1), column(3), strict=True)) == aps


@pytest.mark.browser
def test_kinds_stand_beside_their_colours_in_a_narrow_window(opened):
    driver = opened[0]
    before = driver.get_window_size()
    driver.set_window_size(800, 900)
    try:
        tops = {
            row.find_element("css selector", "button").text: [
                row.find_element("css selector", part).rect["y"] for part in (".swatch", "button")
            ]
            for row in driver.find_elements("css selector", "#kinds tbody tr")
        }
    finally:
        driver.set_window_size(before["width"], before["height"])
    assert list(tops) == KINDS
    assert all(abs(colour - name) < 10 for colour, name in tops.values()), tops


@pytest.mark.browser
def test_a_cell_and_the_filters_choose_images(opened):
    driver, data, summary = opened
    assert len(visible(driver)) == 13

    def files():
        return {card.text.split(" ")[0] for card in visible(driver)}

    wrong = {data["files"][i] for i in summary.pair_images[1, 2]}
    click(driver, "[data-cell='0 1']")
    assert files() == wrong and 0 < len(wrong) < 13
    status = driver.find_element("id", "status").text
    assert f"{len(wrong)} image" in status and all(name in status for name in wrong)
    click(driver, "#clear")
    assert len(files()) == 13
    click(driver, "#by-kind option[value='6']")
    assert files() == {data["files"][0]}
    click(driver, "#by-kind option[value='-1']")
    click(driver, "#by-class option[value='0']")
    assert files() == {
        data["files"][i] for pair, at in summary.pair_images.items() if 1 in pair for i in at
    }
    click(driver, "#kinds tr:nth-child(5) button")  # duplicates
    assert files() == {data["files"][6]}
    assert driver.find_element("id", "by-class").get_property("value") == "-1"


@pytest.mark.browser
def test_images_are_enlarged(opened):
    from selenium.webdriver import ActionChains, Keys

    driver, _, _ = opened

    def press(key):
        ActionChains(driver).send_keys(key).perform()

    dialog = driver.find_element("id", "large")
    assert not dialog.is_displayed()
    click(driver, ".card:nth-child(2)")
    title = driver.find_element("id", "large-title")
    cards = [shown.text.splitlines()[0] for shown in visible(driver)]
    assert dialog.is_displayed() and title.text == cards[1]
    assert len(visible(driver, "#large-sides svg")) == 2
    small, large = (driver.find_element("css selector", f"{place} svg").size["width"]
                    for place in (".card", "#large-sides"))  # fmt: skip
    assert large > 1.5 * small
    press(Keys.ARROW_RIGHT)
    assert title.text == cards[2]
    press(Keys.ESCAPE)
    assert not dialog.is_displayed()


@pytest.mark.browser
def test_pages_with_one_class_many_classes_or_nothing_found(shapes, tmp_path, open_page):
    page_of(shapes, tmp_path / "none.html", lambda *_: [], most=0)
    driver = open_page(tmp_path / "none.html")
    assert visible(driver) == [] and "No image" in driver.find_element("id", "status").text
    assert "recall at 0.5" in driver.find_element("id", "tiles").text
    assert data_of(tmp_path / "none.html")["tiles"][-1] == ["calibration error", None]

    one = tmp_path / "one"
    shutil.copytree(shapes, one)
    file = one / "annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        annotation["category_id"] = 1
    content["categories"] = content["categories"][:1]
    file.write_text(json.dumps(content))
    page_of(one, tmp_path / "one.html", lambda _, *found: [(*found, 0.9)])
    driver = open_page(tmp_path / "one.html")
    assert len(visible(driver, "#confusion td button")) == 1

    names = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
    page_of(shapes, tmp_path / "many.html", mixed, names)
    driver = open_page(tmp_path / "many.html")
    assert len(visible(driver, "#confusion tbody tr")) == 21
    click(driver, "#all-classes input")
    assert len(visible(driver, "#confusion tbody tr")) == 81
    click(driver, "[data-cell='0 1']")
    assert 0 < len(visible(driver)) < 13


@pytest.mark.browser
def test_masks_are_drawn(args, shapes, tmp_path, open_page):
    path = write_checkpoint(tmp_path / "masks.pth", args, "--num_classes", "6", "--masks")
    page = tmp_path / "page.html"
    result = run_ok(REPORT, path, "--coco_path", shapes, "--output", page, "--threshold", "0",
                    "--batch_size", "4")  # fmt: skip
    assert "IoU metric: segm" in result.stdout
    data = data_of(page)
    assert [name for name, _ in data["tables"]] == ["boxes", "masks"]
    assert "AP of masks" in dict(data["tiles"])
    driver = open_page(page)
    assert len(visible(driver)) == 13
    assert len(visible(driver, ".card image")) == 4 * 13
