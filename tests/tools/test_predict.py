"""tools/predict.py: detections of images, drawn and as a JSON file."""

import json
import resource
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_convert

from detector import load_detector
from tests.helpers.checkpoints import assert_same_detections, write_checkpoint
from tests.helpers.commands import run_ok
from tests.helpers.tool_runs import line_of, run_tool
from tools import predict, show_rpe
from tools.image_files.results import ResultsFile
from util.errors import UserError

PREDICT = "tools/predict.py"


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
        assert_same_detections(found, wanted)
    out = tmp_path / "out"
    given = ["--resume", checkpoint, tmp_path / "photo.png", "--threshold", "0", "--device", "cpu"]
    assert run_tool(predict, *given, "--output_dir", out).code == 0
    with Image.open(out / "photo.jpg") as drawn:
        assert drawn.size == (5 * 96, 5 * 64) and not drawn.getexif()
    results = json.loads((out / "results.json").read_text())
    boxes = box_convert(wanted["boxes"], "xyxy", "xywh")
    np.testing.assert_allclose([entry["bbox"] for entry in results], boxes, atol=0.02)
    assert show_rpe.read_image(tmp_path / "photo.png").size == (96, 64)


# ---- the command line ----


def test_files_folders_and_patterns(args, files, tmp_path):
    with_masks = write_checkpoint(tmp_path / "m.pth", args, "--num_classes", "6", "--masks")
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
            assert after.width % before.width == 0 and after.width > before.width
            enlarged = np.asarray(before.resize(after.size)).astype(int)
            assert np.abs(enlarged - np.asarray(after)).max() > 100
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
    assert "is one of the inputs" in line


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
    results, rows = ResultsFile(tmp_path / "r.json"), []
    for more in ([], [{"score": 0.5}], [], [{"name": "ä\n]"}, {"bbox": [1, 2.25]}], [{}]):
        results.add(more)
        rows += more
        assert json.loads((tmp_path / "r.json").read_text()) == rows
        assert results.count == len(rows)


def test_a_full_disk_leaves_the_results_before(tmp_path):
    """A limit on the sizes of files does what a full disk does."""
    results = ResultsFile(tmp_path / "r.json")
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


def test_boxes_score_as_those_of_an_evaluation_do(checkpoint, files):
    """To the last bit: rounding would move boxes across thresholds of overlap."""
    with Image.open(files[0]) as opened:
        (found,) = load_detector(checkpoint, "cpu")(opened, threshold=0)
    rows = predict.coco_results(1, "a", found, range(6))
    written = torch.tensor([row["bbox"] for row in json.loads(json.dumps(rows))])
    assert torch.equal(written, box_convert(found["boxes"], "xyxy", "xywh"))
