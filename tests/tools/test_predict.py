"""A detector from its checkpoint alone, in Python and on the command line."""

import argparse
import json
import resource
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_convert

from checkpoints.compatibility import COCO_NAMES
from datasets import build_dataset
from detector import load_detector
from models import build_model
from tests.helpers.checkpoints import NAMES, write_checkpoint
from tests.helpers.commands import ROOT, TINY_RUN, run_ok
from tests.helpers.tool_runs import line_of, run_tool
from tools import predict, show_rpe
from util.errors import UserError
from util.misc import collate_fn

PREDICT = "tools/predict.py"


@pytest.fixture
def checkpoint(args, tmp_path):
    return write_checkpoint(tmp_path / "plain.pth", args, "--num_classes", "6")


@pytest.fixture
def with_masks(args, tmp_path):
    return write_checkpoint(tmp_path / "masks.pth", args, "--num_classes", "6", "--masks")


@pytest.fixture
def detector(checkpoint):
    return load_detector(checkpoint, "cpu")


@pytest.fixture(scope="module")
def files(varied_shapes):
    return sorted((varied_shapes / "val2017").iterdir())[:3]


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if name == "names":
            assert value == other[name]
        else:
            torch.testing.assert_close(value, other[name], atol=1e-4, rtol=1e-4)


def test_it_finds_what_an_evaluation_finds(with_masks, varied_shapes, args, files):
    options = args(*TINY_RUN, "--masks", "--coco_path", varied_shapes, "--num_classes", "6")
    model, _, postprocessors = build_model(options)
    model.load_state_dict(torch.load(with_masks, weights_only=False)["model"])
    dataset = build_dataset("val", options)
    samples, targets = collate_fn([dataset[i] for i in range(3)])
    orig_sizes, sizes = (torch.stack([t[k] for t in targets]) for k in ("orig_size", "size"))
    with torch.no_grad():
        outputs = model.eval()(samples)
    wanted = postprocessors["bbox"](outputs, orig_sizes)
    wanted = postprocessors["segm"](wanted, outputs, orig_sizes, sizes)
    detector = load_detector(with_masks, "cpu")
    for one, other in zip(detector.detect_batch(samples, targets), wanted, strict=True):
        for name, value in other.items():
            torch.testing.assert_close(one[name], value)
    found = detector(files, threshold=0)
    for one, other in zip(found, wanted, strict=True):
        order = other["scores"].argsort(descending=True, stable=True)
        for name, value in other.items():
            torch.testing.assert_close(one[name], value[order], atol=1e-4, rtol=1e-4)
        assert one["names"] == [NAMES.get(label, "class 0") for label in one["labels"].tolist()]


def test_images_of_every_kind(checkpoint, files):
    detector = load_detector(checkpoint, device="cpu")
    with Image.open(files[0]) as opened:
        picture = opened.convert("RGB")
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    (wanted,) = detector(str(files[0]), threshold=0)
    assert len(wanted["scores"]) == 8 and (wanted["scores"].diff() <= 0).all()
    for image in (files[0], picture, array, tensor, tensor.double() / 255):
        (found,) = detector([image], threshold=0)
        assert_same(found, wanted)
    middle = wanted["scores"][3].item()
    assert len(detector(picture, threshold=middle)[0]["names"]) == 4
    assert detector([]) == []
    assert len(detector(array[..., 0], threshold=0)[0]["boxes"]) == 8  # grey


def test_floats_a_little_outside_are_those_of_resizing(detector):
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    beyond = torch.where(image > 0.9, 1.1, torch.where(image < 0.1, -0.1, image))
    (found,) = detector(beyond, threshold=0)
    (wanted,) = detector(beyond.clamp(0, 1), threshold=0)
    assert_same(found, wanted)


def test_a_photo_is_turned_upright(checkpoint, files, tmp_path):
    """On a phone that was held upright the sensor lies on its side."""
    with Image.open(files[0]) as opened:
        seen = opened.convert("RGB").resize((96, 64))
    stored = seen.transpose(Image.Transpose.ROTATE_90)
    exif = stored.getexif()
    exif[0x0112] = 6
    stored.save(tmp_path / "photo.png", exif=exif)
    detector = load_detector(checkpoint, "cpu")
    (wanted,) = detector(seen, threshold=0)
    for photo in (tmp_path / "photo.png", stored, Image.open(tmp_path / "photo.png")):
        (found,) = detector(photo, threshold=0)
        assert_same(found, wanted)
    out = tmp_path / "out"
    given = ["--resume", checkpoint, tmp_path / "photo.png", "--threshold", "0", "--device", "cpu"]
    assert run_tool(predict, *given, "--output_dir", out).code == 0
    with Image.open(out / "photo.jpg") as drawn:
        assert drawn.size == (96, 64) and not drawn.getexif()
    results = json.loads((out / "results.json").read_text())
    boxes = box_convert(wanted["boxes"], "xyxy", "xywh")
    np.testing.assert_allclose([entry["bbox"] for entry in results], boxes, atol=0.02)
    assert show_rpe.read_image(tmp_path / "photo.png").size == (96, 64)


def test_names_of_checkpoints_that_do_not_tell(args, tmp_path):
    """Those of published code: COCO's, of which 80 ids up to 90 are in use."""
    published = write_checkpoint(tmp_path / "p.pth", args, classes=None)
    assert load_detector(published).names == COCO_NAMES
    assert len(COCO_NAMES) == 80 and COCO_NAMES[1] == "person" and COCO_NAMES[90] == "toothbrush"
    other = write_checkpoint(tmp_path / "o.pth", args, "--num_classes", "4", classes=None)
    detector = load_detector(other)
    (found,) = detector(Image.new("RGB", (64, 64)), threshold=0)
    assert set(found["names"]) <= {f"class {label}" for label in range(4)}


def test_checkpoints_without_a_model(tmp_path, args):
    for content, says in (
        ({"model": {}}, "not the weights of a DETR"),
        ([1, 2], "no 'model'"),
        ({"args": argparse.Namespace()}, "no 'model'"),
    ):
        torch.save(content, tmp_path / "c.pth")
        with pytest.raises(UserError, match=says):
            load_detector(tmp_path / "c.pth")
    with pytest.raises(UserError, match="no such checkpoint"):
        load_detector(tmp_path / "none.pth")


def test_torch_hub_finds_it(checkpoint, files):
    detector = torch.hub.load(str(ROOT), "load_detector", str(checkpoint), source="local")
    assert_same(detector(files[0], 0)[0], load_detector(checkpoint)(files[0], 0)[0])


# ---- the command line ----


def test_files_folders_and_patterns(with_masks, files, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for file in files[:2]:
        shutil.copy(file, folder)
    (folder / "notes.txt").write_text("no image")
    result = run_ok(
        PREDICT, "--resume", with_masks, folder, files[2], f"{folder}/*01.jpg", "--output_dir",
        tmp_path / "out", "--threshold", "0", "--batch_size", "2", "--device", "cpu",
    )  # fmt: skip
    assert "3 image(s), 24 detection(s)" in result.stdout
    out = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert out == [*(file.name for file in files), "results.json"]
    for file in files:
        with Image.open(file) as before, Image.open(tmp_path / "out" / file.name) as after:
            assert before.size == after.size
            assert np.abs(np.asarray(before).astype(int) - np.asarray(after)).max() > 30
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {entry["image_id"] for entry in results} == {1, 2, 3}
    assert {entry["file_name"] for entry in results} == {file.name for file in files}
    assert {"category_id", "bbox", "score", "segmentation", "area"} <= results[0].keys()


def test_images_of_the_folder_that_it_is_called_in(checkpoint, files, tmp_path, monkeypatch):
    shutil.copy(files[0], tmp_path / "photo.jpg")
    (tmp_path / "text.jpg").write_text("this is a text")
    tool = ["--resume", checkpoint, "--device", "cpu"]
    monkeypatch.chdir(tmp_path)
    assert run_tool(predict, *tool, "photo.jpg").code == 0
    assert (tmp_path / "predictions" / "photo.jpg").exists()
    line = line_of(predict, *tool, "text.jpg", "--force")
    assert line.startswith("error: text.jpg: not a readable image")


def test_nothing_is_written_over(checkpoint, files, tmp_path):
    command = [predict, "--resume", checkpoint, files[0], "--device", "cpu", "--output_dir"]
    assert run_tool(*command, tmp_path).code == 0
    before = (tmp_path / files[0].name).read_bytes()
    line = line_of(*command, tmp_path)
    assert f"{files[0].name}: exists" in line and "--force" in line
    assert run_tool(*command, tmp_path, "--force", "--threshold", "0").code == 0
    assert (tmp_path / files[0].name).read_bytes() != before
    line = line_of(*command, files[0].parent, "--force")
    assert "is one of the images" in line


def test_images_of_one_name_are_numbered(checkpoint, files, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(files[0], tmp_path / folder / "x.jpg")
    run_tool(predict, "--resume", checkpoint, tmp_path / "a", tmp_path / "b", "--output_dir",
             tmp_path / "out", "--device", "cpu")  # fmt: skip
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["000001_x.jpg", "000002_x.jpg", "results.json"]


def test_mistakes_are_answered_with_one_line(checkpoint, files, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("this is a text")
    out = ["--output_dir", tmp_path / "out", "--device", "cpu"]
    for given, says in (
        ([tmp_path / "empty"], "empty: no images in this folder"),
        ([tmp_path / "text.jpg"], "text.jpg: not a readable image"),
        ([tmp_path / "none*.jpg"], "no such file"),
    ):
        assert says in line_of(predict, "--resume", checkpoint, *given, *out)
    line = line_of(predict, "--resume", tmp_path / "no.pth", files[0], *out)
    assert "no.pth: no such checkpoint file" in line
    assert "--resume" in line_of(predict, files[0], *out)
    assert "examples:" in run_tool(predict, "--help").out


def test_bad_files_are_named_and_the_others_go_on(checkpoint, files, tmp_path):
    folder, out = tmp_path / "frames", tmp_path / "out"
    folder.mkdir()
    for number, file in enumerate(files):
        shutil.copy(file, folder / f"{2 * number}.jpg")
        (folder / f"{2 * number + 1}.jpg").write_text("this is a text")
    for batch_size in ("1", "2", "4"):  # those of a batch, a batch of bad ones alone
        run = run_tool(
            predict, "--resume", checkpoint, folder, "--output_dir", out, "--threshold", "0",
            "--batch_size", batch_size, "--device", "cpu", "--force",
        )  # fmt: skip
        assert run.code == 1 and run.out.endswith(f"3 image(s), 24 detection(s) in {out}\n")
        lines = run.err.splitlines()
        assert [line.split(": ")[1] for line in lines] == [f"{folder}/{i}.jpg" for i in (1, 3, 5)]
        results = json.loads((out / "results.json").read_text())
        assert [entry["image_id"] for entry in results[::8]] == [0, 2, 4] and len(results) == 24


def test_a_terminal_without_umlauts(args, files, tmp_path):
    """As under LC_ALL=C; names of classes may hold anything."""
    names = dict.fromkeys(range(6), "Bär \x1b[2J\nerror: done")
    path = write_checkpoint(tmp_path / "ä.pth", args, "--num_classes", "6", classes=names)
    (tmp_path / "ö.jpg").write_text("this is a text")
    out = tmp_path / "ü"
    run = run_tool(
        predict, "--resume", path, files[0], tmp_path / "ö.jpg", "--output_dir", out,
        "--threshold", "0", "--device", "cpu", encoding="ascii",
    )  # fmt: skip
    assert run.code == 1 and len(run.out.splitlines()) == 2  # one of the progress
    assert run.out.endswith("8 detection(s) in " + str(out).replace("ü", "\\xfc") + "\n")
    assert run.err.count("\n") == 1 and "not a readable image" in run.err
    run = run_tool(show_rpe, path, "--output_dir", out, "--device", "cpu", encoding="ascii")
    assert run.code == 0 and "\\xfc/tables.png" in run.out


def test_ctrl_c_keeps_what_was_done(checkpoint, files, tmp_path, monkeypatch):
    def interrupted(image, found):
        if (tmp_path / "out" / files[1].with_suffix(".jpg").name).exists():
            raise KeyboardInterrupt
        return image

    monkeypatch.setattr(predict, "drawn_on", interrupted)
    run = run_tool(predict, "--resume", checkpoint, *files, "--output_dir", tmp_path / "out",
                   "--threshold", "0", "--device", "cpu")  # fmt: skip
    assert run.code == 130 and run.err == "interrupted\n"
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {entry["file_name"] for entry in results} == {file.name for file in files[:2]}


def test_results_are_whole_after_each_image(tmp_path):
    results, rows = predict.ResultsFile(tmp_path / "r.json"), []
    for more in ([], [{"score": 0.5}], [], [{"name": "ä\n]"}, {"bbox": [1, 2.25]}], [{}]):
        results.add(more)
        rows += more
        assert json.loads((tmp_path / "r.json").read_text()) == rows
        assert results.count == len(rows)


def test_a_full_disk_leaves_the_results_before(tmp_path):
    """A limit on the sizes of files does what a full disk does."""
    results = predict.ResultsFile(tmp_path / "r.json")
    results.add([{"score": 0.5}])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        with pytest.raises(UserError, match=r"r\.json: cannot be written \(File too large\)"):
            results.add([{"score": 0.25}] * 50)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert json.loads((tmp_path / "r.json").read_text()) == [{"score": 0.5}]


def test_boxes_score_as_those_of_an_evaluation_do(detector, files):
    """To the last bit: rounding would move boxes across thresholds of overlap."""
    with Image.open(files[0]) as opened:
        (found,) = detector(opened, threshold=0)
    rows = predict.coco_results(1, "a", found, range(6))
    written = torch.tensor([row["bbox"] for row in json.loads(json.dumps(rows))])
    assert torch.equal(written, box_convert(found["boxes"], "xyxy", "xywh"))
