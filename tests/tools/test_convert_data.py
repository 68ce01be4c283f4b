"""tools/convert_data.py: YOLO's and Pascal VOC's labels become COCO's, by hand and as drawn."""

import json
from pathlib import Path

import pytest
from PIL import Image

from datasets.layouts import find_split
from tests.helpers.data import make_shapes
from tests.helpers.tool_runs import line_of, result_lines, run_tool
from tools import check_data, convert_data
from util.errors import UserError

DRAWN = ["--train", "8", "--val", "30", "--test", "2", "--size", "64", "--aspect", "1.4",
         "--classes", "disc", "plus", "square", "star", "triangle"]  # fmt: skip
SPLITS = ("train", "val", "test")


def content_of(root: Path, split: str = "train") -> dict:
    return json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())


def convert(source: Path, out: Path, *options: str) -> Path:
    run = run_tool(convert_data, source, out, *options)
    assert run.code == 0, run
    return out


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_txt", ".txt").replace("_xml", ".xml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def yolo(tmp_path) -> Path:
    """An image of 200 x 100 with a box and a triangle, and one without labels."""
    root = tmp_path / "yolo"
    (root / "images" / "a").mkdir(parents=True)
    for name in ("one.jpg", "two.png"):
        Image.new("RGB", (200, 100)).save(root / "images" / "a" / name)
    write(root, labels__a__one_txt="1 0.5 0.5 0.1 0.2\n\n0 0.1 0.1 0.3 0.1 0.1 0.5\n")
    (root / "data.yaml").write_text("train: images/a\nnames: [cat, dog]\nnc: 2\n")
    return root


OBJECT = """<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>
<xmax>{}</xmax><ymax>{}</ymax></bndbox><part><name>head</name></part></object>"""


def voc_xml(*objects: tuple, size: str = "<width>9</width><height>7</height>") -> str:
    entries = "".join(OBJECT.format(*values) for values in objects)
    return f"<annotation><size>{size}</size>{entries}</annotation>"


@pytest.fixture
def voc(tmp_path) -> Path:
    """An image of 9 x 7 whose first object fills it, and whose second one is difficult."""
    root = tmp_path / "voc"
    (root / "JPEGImages").mkdir(parents=True)
    Image.new("RGB", (9, 7)).save(root / "JPEGImages" / "x.jpg")
    write(root, Annotations__x_xml=voc_xml(("dog", 0, 1, 1, 9, 7), ("cat", 1, 2.5, 3, 2.5, 4)),
          ImageSets__Main__val_txt="x\n")  # fmt: skip
    return root


# ---- by hand ----


def test_numbers_of_yolo_worked_out_by_hand(yolo, tmp_path):
    out = convert(yolo, tmp_path / "out")
    content = content_of(out)
    assert [image["file_name"] for image in content["images"]] == ["one.jpg", "two.png"]
    assert {(image["height"], image["width"]) for image in content["images"]} == {(100, 200)}
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert content["annotations"] == [
        {"id": 1, "image_id": 1, "category_id": 2, "bbox": [90, 40, 20, 20], "area": 400,
         "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [20, 10, 40, 40], "area": 800,
         "iscrowd": 0, "segmentation": [[20, 10, 60, 10, 20, 50]]},
    ]  # fmt: skip
    assert (out / "train2017" / "two.png").samefile(yolo / "images" / "a" / "two.png")
    assert not (out / "val2017").exists()


def test_class_n_of_yolo_is_category_n_plus_1(yolo, tmp_path):
    """Also where data.yaml leaves numbers out."""
    (yolo / "data.yaml").write_text("train: images/a\nnames: {1: dog, 0: cat, 7: bird}\n")
    write(yolo, labels__a__one_txt="7 0.5 0.5 0.1 0.2\n1 0.5 0.5 0.1 0.2\n")
    content = content_of(convert(yolo, tmp_path / "out"))
    assert [a["category_id"] for a in content["annotations"]] == [8, 2]
    assert [(c["id"], c["name"]) for c in content["categories"]] == [
        (1, "cat"), (2, "dog"), (8, "bird"),
    ]  # fmt: skip


def test_numbers_of_voc_worked_out_by_hand(voc, tmp_path):
    """Pixels are counted from 1, and the last one is inside; difficult objects are crowds."""
    content = content_of(convert(voc, tmp_path / "out"), "val")
    assert content["images"] == [{"id": 1, "file_name": "x.jpg", "height": 7, "width": 9}]
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    boxes = [(a["category_id"], a["bbox"], a["iscrowd"]) for a in content["annotations"]]
    assert boxes == [(2, [0, 0, 9, 7], 0), (1, [1.5, 2, 1, 2], 1)]
    options = ["--zero_based", "--classes", "dog", "bird", "cat"]
    content = content_of(convert(voc, tmp_path / "other", *options), "val")
    boxes = [(a["category_id"], a["bbox"]) for a in content["annotations"]]
    assert boxes == [(1, [1, 1, 8, 6]), (3, [2.5, 3, 0, 1])]
    assert [c["name"] for c in content["categories"]] == ["dog", "bird", "cat"]


def test_places_that_data_yaml_can_name(yolo, tmp_path):
    """Folders, lists, several of them, Roboflow's ../, and a path of another machine."""
    wanted = content_of(convert(yolo, tmp_path / "out"))
    write(yolo, list_txt="./images/a/one.jpg\nimages/a/two.png\n")
    for number, text in enumerate((
        "train: ../images/a", "path: /elsewhere\ntrain: images/a",
        f"path: {yolo}\ntrain: [list.txt]", "path: images\ntrain: a",
        "train: [images/a, list.txt]", f"train: {yolo}/images\ntest:",
    )):  # fmt: skip
        (yolo / "data.yaml").write_text(f"{text}\nnames: {{1: dog, 0: cat}}\n")
        out = convert(yolo / "data.yaml", tmp_path / str(number))
        found = content_of(out)
        assert found["annotations"] == wanted["annotations"]
        for image in found["images"]:
            assert (out / "train2017" / image["file_name"]).is_file()


def test_sizes_of_turned_photos(yolo, tmp_path):
    """Tools for YOLO show photos upright; where training cannot know that, it is refused."""
    photo = yolo / "images" / "a" / "one.jpg"
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (200, 100)).save(photo, exif=exif)
    content = content_of(convert(yolo, tmp_path / "out"))
    assert (content["images"][0]["height"], content["images"][0]["width"]) == (200, 100)
    assert content["annotations"][0]["bbox"] == [45, 80, 10, 40]
    exif[274] = 3
    Image.new("RGB", (200, 100)).save(photo, exif=exif)
    line = line_of(convert_data, yolo, tmp_path / "other")
    assert line.startswith(f"error: {photo}: its EXIF orientation 3") and "mogrify" in line


# ---- drawn data: what was drawn comes back ----


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> dict[str, Path]:
    """The same shapes in COCO's layout, and converted from YOLO's and VOC's."""
    root = tmp_path_factory.mktemp("drawn")
    found = {"coco": make_shapes(root / "coco", *DRAWN)}
    for layout in ("yolo", "voc"):
        source = make_shapes(root / layout, "--layout", layout, *DRAWN)
        found[layout] = convert(source, root / f"from_{layout}")
    return found


@pytest.mark.parametrize("layout", ["yolo", "voc"])
def test_annotations_survive_exactly(drawn, layout):
    """All but areas, of which VOC has none, and YOLO's crowds; also the bytes of images."""
    keys = ("image_id", "category_id", "bbox", "iscrowd", *["segmentation"] * (layout == "yolo"))
    crowds = 0
    for split in SPLITS:
        before, after = content_of(drawn["coco"], split), content_of(drawn[layout], split)
        objects = [a for a in before["annotations"] if layout == "voc" or not a["iscrowd"]]
        crowds += sum(a["iscrowd"] for a in before["annotations"])
        for wanted, found in zip(objects, after["annotations"], strict=True):
            assert [found[key] for key in keys] == [wanted[key] for key in keys]
            if layout == "yolo":
                assert found["area"] == pytest.approx(wanted["area"], abs=0.006)
        assert after["categories"] == before["categories"]
        for wanted, found in zip(before["images"], after["images"], strict=True):
            assert (found["height"], found["width"]) == (wanted["height"], wanted["width"])
            images = [root / f"{split}2017" / image["file_name"] for root, image in
                      ((drawn["coco"], wanted), (drawn[layout], found))]  # fmt: skip
            assert images[0].read_bytes() == images[1].read_bytes()
    assert crowds
    run = run_tool(check_data, drawn[layout], "--jobs", "1")
    assert run.code == 0 and result_lines(run.out) == ["errors: 0, notes: 0"]


# ---- errors: one line that names the file, and the line ----


def test_bad_lines_are_named(yolo, tmp_path):
    path = yolo / "labels" / "a" / "one.txt"
    for line, says in (
        ("1 0.5 0.5 0.1", "has 4 number(s); a box has 5"),
        ("1 0.5 0.5 0.1 0.1 0.9", "has 6 number(s)"),
        ("2 0.5 0.5 0.1 0.1", "has class 2, the names in data.yaml are of 0, 1"),
        ("0.5 0.5 0.5 0.1 0.1", "has class 0.5"),
        ("nan 0.5 0.5 0.1 0.1", "has class nan"),
        ("1 0.5 0.5 0.1 nan", "has nan; coordinates are shares"),
        ("1 50 50 10 10", "has 50; coordinates are shares"),
        ("1 0.5 0.5 -0.005 0.1", "negative width or height -0.005"),
        ("dog 0.5 0.5 0.1 0.1", "is 'dog 0.5 0.5 0.1 0.1', which is not numbers alone"),
    ):
        path.write_text(f"0 0.5 0.5 1 1\n\n{line}\n")
        told = line_of(convert_data, yolo, tmp_path / "out")
        assert told.startswith(f"error: {path}, line 3 ") and says in told
    assert not (tmp_path / "out").exists()


def test_bad_yolo_data_is_named(yolo, tmp_path):
    def told(text: str = "train: images/a\nnames: [a, b]\n") -> str:
        (yolo / "data.yaml").write_text(text)
        return line_of(convert_data, yolo, tmp_path / "out")

    for text, says in (
        ("train: [", "data.yaml: not valid YAML"),
        ("train: images/a", "names: is None, not the names"),
        ("train: images/a\nnames: [no, yes]", "names: 0 is False; put it in quotes"),
        ("train: images/b\nnames: [a]", "train: " + str(yolo / "images" / "b") + ": no such"),
        ("names: [a]", "names no images"),
        ("train: labels\nnames: [a]", "train: labels: there are no images"),
        ("train: images/a\nnames: [a, b]\nkpt_shape: [17, 3]", "key points are not supported"),
    ):
        assert says in told(text)
    write(yolo, labels__a__three_txt="0 0.5 0.5 1 1\n", labels__a__classes_txt="a\nb\n")
    assert "three.txt: there is no image of that name" in told()
    (yolo / "labels" / "a" / "three.txt").unlink()
    (yolo / "images" / "a" / "two.png").write_text("no image")
    assert "two.png: not a readable image" in told()
    write(yolo, list_txt="images/a/one.jpg\nimages/a/three.jpg\n")
    assert "list.txt, line 2: " in told("train: list.txt\nnames: [a, b]")
    (yolo / "labels" / "a" / "one.txt").unlink()
    assert "none of 2 images has labels" in told()
    (yolo / "data.yaml").unlink()
    assert "has no files that may be YOLO's data.yaml" in line_of(
        convert_data, yolo, tmp_path / "out"
    )


def test_bad_voc_data_is_named(voc, tmp_path):
    xml = voc / "Annotations" / "x.xml"

    def told(text: str, *options: str) -> str:
        xml.write_text(text)
        return line_of(convert_data, voc, tmp_path / "out", *options)

    for objects, says in (
        ([("a", 0, 1, 1, 3, 3), ("", 0, 1, 1, 3, 3)], "object 2 has no name"),
        ([("a", 0, 0, 1, 3, 3)], "object 1 (a) has xmin 0, ymin 1; VOC counts pixels from 1, --"),
        ([("a", 0, 5, 1, 3, 3)], "object 1 (a) has xmax or ymax below xmin or ymin"),
        ([("a", 0, "one", 1, 3, 3)], "object 1 has 'one' as bndbox/xmin"),
        ([("a", 0, 1, 1, 3, "inf")], "object 1 has 'inf' as bndbox/ymax"),
        ([("a", "no", 1, 1, 3, 3)], "object 1 has 'no' as difficult"),
    ):  # fmt: skip
        line = told(voc_xml(*objects))
        assert line.startswith(f"error: {xml}: ") and says in line
    assert "object 1 is 'a', none of --classes" in told(
        voc_xml(("a", 0, 1, 1, 3, 3)), "--classes", "b"
    )
    assert "there is no object in it" in told(voc_xml())
    assert "x.xml: not readable XML (unclosed token: line 2, column 0" in told("<annotation>\n<siz")
    xml.unlink()
    lists = voc / "ImageSets" / "Main"
    line = line_of(convert_data, voc, tmp_path / "out")
    assert line.startswith(f"error: {lists / 'val.txt'}, line 1: {xml}: no such annotation file")
    (lists / "val.txt").write_text("\ny\n")
    line = line_of(convert_data, voc, tmp_path / "out")
    assert line.startswith(f"error: {lists / 'val.txt'}, line 2: ") and "no image 'y'" in line
    (lists / "val.txt").write_text("\n")
    assert "val.txt: lists no images" in line_of(convert_data, voc, tmp_path / "out")
    (lists / "val.txt").unlink()
    assert "has none of train.txt, val.txt, test.txt" in line_of(
        convert_data, voc, tmp_path / "out"
    )


def test_sizes_that_voc_lacks_are_those_of_the_image(voc, tmp_path):
    write(voc, Annotations__x_xml=voc_xml(("a", 0, 1, 1, 3, 3), size="<width>0</width>"))
    (image,) = content_of(convert(voc, tmp_path / "out"), "val")["images"]
    assert (image["height"], image["width"]) == (7, 9)


def test_mistakes_are_answered_with_a_line(yolo, voc, tmp_path):
    out = tmp_path / "out"
    for given, says in (
        ([tmp_path / "nothing", out], "no such folder"),
        ([tmp_path, out], "neither in YOLO's layout"),
        ([yolo, yolo], "not empty"),
        ([yolo, out, "--zero_based"], "--zero_based is for Pascal VOC's layout"),
        ([voc, out, "--classes", "a", "a"], "a class is named twice"),
    ):
        assert says in line_of(convert_data, *given)


def test_main_names_the_command_to_run(yolo, voc, args):
    for source, layout in ((yolo, "YOLO"), (yolo / "data.yaml", "YOLO"), (voc, "Pascal VOC")):
        for annotated in (False, True):
            with pytest.raises(UserError) as error:
                find_split("train", args("--coco_path", source), annotated)
            assert f"is in {layout}'s layout: python tools/convert_data.py {source} OUT" in str(
                error.value
            )
    assert "tools/convert_data.py" in line_of(check_data, voc)
