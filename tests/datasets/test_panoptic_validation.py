"""Invalid panoptic data sets: one line each, from training, scoring and tools/check_data.py."""

import json

import pytest
from PIL import Image

from datasets.annotations.panoptic import read_panoptic_annotations
from tests.helpers.commands import answer_of_main
from tests.helpers.panoptic_data import (
    annotation_file,
    dataset_of,
    known_picture,
    options,
    random_picture,
    write_split,
)
from tests.helpers.tool_runs import result_lines, run_tool
from tests.hostile.panoptic import ID, MAPS, data, with_map
from tools import check_data as check_data_tool
from util.errors import UserError


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "7", "[" * 100_000, '{"images": 1}'])
def test_what_is_no_annotation_file_at_all(tmp_path, content):
    path = annotation_file(data(tmp_path))
    path.write_text(content)
    with pytest.raises(UserError) as error:
        read_panoptic_annotations(path)
    said = str(error.value)
    assert "\n" not in said and said.startswith(f"{path}: not a ")


def test_all_faults_are_found(tmp_path):
    path = annotation_file(data(tmp_path))
    content = json.loads(path.read_text())
    segments = content["annotations"][0]["segments_info"]
    segments[0]["id"], segments[1]["category_id"], segments[3]["id"] = 0, 2, 70_000
    content["annotations"].pop()
    path.write_text(json.dumps(content))
    known, faults = read_panoptic_annotations(path)
    assert [(str(fault).removeprefix(f"{path}: "), fault.image_id) for fault in faults] == [
        ("image 2 has no annotation", 2),
        (f"segments_info entry 0 of image 1 has id 0, {ID}", 1),
        ("segment 5 of image 1 has category_id 2, which is none of the file's categories", 1),
        ("segment 70000 of image 1 has an id that 2 segments share", 1),
        ("segment 70000 of image 1 has an id that 2 segments share", 1),
    ]
    assert len(known) == 2 and known.png_name(1) == "" and known.file_name(1) == "2.png"


# ---- maps ----


@pytest.mark.parametrize(("name", "split"), [("missing", "train"), ("size", "val")])
def test_main_stops_at_a_faulty_map(tmp_path, name, split):
    wanted = with_map(tmp_path, name)
    write_split(tmp_path, [random_picture(1)], "val")
    mode = ["--epochs", "1"]
    if split == "val":
        swap_splits(tmp_path)
        wanted, mode = wanted.replace("train2017", "val2017"), ["--eval"]
    assert answer_of_main(*options(tmp_path), *mode) == f"error: {wanted}"


def swap_splits(root):
    for folder, name in (("coco", "{}2017"), ("panoptic", "panoptic_{}2017"),
                         ("panoptic/annotations", "panoptic_{}2017.json")):  # fmt: skip
        train, val = (root / folder / name.format(split) for split in ("train", "val"))
        val.rename(root / "aside")
        train.rename(val)
        (root / "aside").rename(train)


def test_a_map_must_fit_its_image_where_the_file_tells_no_size(tmp_path):
    picture = known_picture()
    picture.image = {"height": None, "width": None}
    root = write_split(tmp_path, [picture])
    assert len(dataset_of(root)[0][1]["boxes"]) == 3
    maps = root / "panoptic" / "panoptic_train2017"
    (maps / "1.png").write_bytes(MAPS["size"][0])
    with pytest.raises(UserError, match=r"width 40, but .*1\.png is 30 high and 39 wide"):
        dataset_of(root)[0]


def test_an_image_must_be_as_large_as_told(tmp_path):
    root = data(tmp_path)
    Image.new("RGB", (41, 30)).save(root / "coco" / "train2017" / "1.png")
    with pytest.raises(UserError) as error:
        dataset_of(root)[0]
    assert str(error.value) == (
        f"{annotation_file(root)}: image 1 has height 30 and width 40, but 1.png is 30 high and "
        "41 wide"
    )


# ---- the command lines ----


def test_options_that_do_not_fit(tmp_path):
    data(tmp_path)
    panoptic = ["--dataset_file", "coco_panoptic", "--coco_path", tmp_path / "coco"]
    line = answer_of_main(*panoptic)
    assert "--coco_panoptic_path is missing, which --dataset_file coco_panoptic needs" in line
    line = answer_of_main(*panoptic, "--coco_panoptic_path", tmp_path / "nothing")
    assert line == f"error: --coco_panoptic_path {tmp_path / 'nothing'}: no such folder"
    line = answer_of_main(*options(tmp_path), "--eval")
    assert line == f"error: {annotation_file(tmp_path, 'val')}: no such annotation file"
    folder = write_split(tmp_path, [known_picture()], "val") / "panoptic" / "panoptic_val2017"
    folder.rename(tmp_path / "aside")
    line = answer_of_main(*options(tmp_path), "--eval")
    assert line == f"error: {folder}: no such image folder, and no {folder}.zip either"


def check_data(root, *more) -> list[str]:
    """Return the errors that the tool reports."""
    run = run_tool(
        check_data_tool, root / "coco", "--coco_panoptic_path", root / "panoptic", "--jobs", "1",
        *more,
    )  # fmt: skip
    assert run.code == 1 and run.err == ""
    return result_lines(run.out)


def test_check_data_lists_all_in_the_words_of_training(tmp_path):
    names = [name for name, (_, words) in MAPS.items() if not words.endswith(("(", "(no PNG"))]
    pictures = [known_picture() for _ in names]
    root = write_split(tmp_path, [*pictures, random_picture(0), random_picture(1)])
    maps, path = root / "panoptic" / "panoptic_train2017", annotation_file(root)
    content = json.loads(path.read_text())
    content["annotations"].pop()
    content["annotations"][0]["segments_info"][0]["category_id"] = 2
    path.write_text(json.dumps(content))
    wanted = [f"image {len(names) + 2} has no annotation",
              "segment 16777215 of image 1 has category_id 2, which is none of the file's "
              "categories"]  # fmt: skip
    for number, name in enumerate(names, start=1):
        made, words = MAPS[name]
        (maps / f"{number}.png").unlink()
        if made is not None:
            (maps / f"{number}.png").write_bytes(made)
        wanted.append(words.replace("1.png", f"{number}.png").replace("image 1", f"image {number}"))
    (root / "coco" / "train2017" / f"{len(names) + 1}.png").write_text("no image")
    wanted.append(
        f"image {len(names) + 1}: {root}/coco/train2017/{len(names) + 1}.png: not a readable image "
        "(of no known format)"
    )
    wanted = [f"error: {path}: {words}".replace("MAPS", str(maps)) for words in wanted]
    lines = check_data(root, "--split", "train")
    assert lines == [*wanted, f"errors: {len(wanted)}, notes: 0"]


def test_check_data_reads_instances_only_where_there_are_any(tmp_path):
    root = data(write_split(tmp_path, [random_picture(0)], "val"))  # all good, but no instances
    (root / "coco" / "annotations").mkdir()
    instances = root / "coco" / "annotations" / "instances_train2017.json"
    instances.write_text("{")
    maps = root / "panoptic" / "panoptic_train2017"
    maps.with_suffix(".zip").write_bytes(b"PK no archive")
    first, *classes, last = check_data(root, "--num_classes", "77")
    assert first.startswith(f"error: {instances}: not a readable JSON file")
    archive = f"error: {maps}.zip: not a readable zip archive"
    classes.remove(next(line for line in classes if line.startswith(archive)))
    words = "has category_id 77, the model has classes 0 to 76; give --num_classes 78 or more"
    assert all(line.endswith(words) for line in classes)
    for split in ("train", "val"):
        assert any(str(annotation_file(root, split)) in line for line in classes)
    assert last == f"errors: {len(classes) + 2}, notes: 0"
