"""classification/tools/predict.py: what it prints and writes, and what it refuses."""

import json
import re
import shutil

import pytest
from PIL import Image

from classification.classifier import load_classifier
from classification.tools import predict
from tests.classification.tiny_deit import (
    drawn,
    tiny_model,
    write_checkpoint,
    write_images,
)
from tests.helpers.commands import run_ok
from tests.helpers.tool_runs import line_of, run_tool

PREDICT = "classification/tools/predict.py"


@pytest.fixture
def trained(tmp_path):
    """Write a checkpoint that tells all, of 3 heads as DeiT-Ti has them."""
    model = tiny_model(embed_dim=192, num_heads=3)
    return write_checkpoint(tmp_path / "checkpoint.pth", model)


def test_a_folder_as_a_command(trained, tmp_path):
    paths = write_images(tmp_path / "images")
    shutil.copy(trained, tmp_path / "images" / "notes.txt")  # not an image by its name
    out = tmp_path / "r.json"
    result = run_ok(PREDICT, trained, tmp_path / "images", "--topk", "2", "--json", out,
                    "--batch_size", "2", "--device", "cpu")  # fmt: skip
    wanted = load_classifier(trained, "cpu").predict(paths, 2)
    lines = result.stdout.splitlines()
    assert "deit_tiny_patch16_224, 2 blocks of 192 with 3 heads, 5 classes" in lines[0]
    lines = [line for line in lines[1:] if not line.startswith("images  ")]
    assert lines.pop() == f"3 of 3 image(s) in {out}"
    entries = json.loads(out.read_text())
    for path, row, entry in zip(paths, wanted, entries, strict=True):
        assert lines.pop(0) == str(path)
        for name, probability in row:
            assert lines.pop(0) == f"  {100 * probability:5.1f}%  {name}"
        assert entry["file_name"] == str(path)
        assert [c["name"] for c in entry["classes"]] == [name for name, _ in row]
        found = [c["probability"] for c in entry["classes"]]
        assert found == pytest.approx([p for _, p in row], rel=1e-4)
    assert lines == []


def test_a_photo_is_turned_upright(trained, tmp_path):
    seen = drawn(1, 40, 70)
    stored = seen.transpose(Image.Transpose.ROTATE_90)
    exif = stored.getexif()
    exif[0x0112] = 6
    stored.save(tmp_path / "photo.png", exif=exif)
    classifier = load_classifier(trained, "cpu")
    wanted = classifier.predict([seen])
    assert classifier.predict(tmp_path / "photo.png") == wanted
    assert classifier.predict([seen.transpose(Image.Transpose.ROTATE_180)]) != wanted


def test_averaged_weights_as_an_option(tmp_path):
    average = tiny_model(embed_dim=192, num_heads=3, seed=1)
    path = write_checkpoint(
        tmp_path / "c.pth", tiny_model(embed_dim=192, num_heads=3), ema=average.state_dict()
    )
    (image,) = write_images(tmp_path / "images", 1)
    tops = {}
    for options in ((), ("--average",)):
        out = tmp_path / f"{len(options)}.json"
        assert run_tool(predict, path, image, "--json", out, *options, "--device", "cpu").code == 0
        tops[options] = json.loads(out.read_text())[0]["classes"][0]
    (wanted,) = load_classifier(path, "cpu", average=True).predict(image, 1)
    assert tops["--average",]["name"] == wanted[0][0] and tops[()] != tops["--average",]


def test_bad_files_are_named_and_the_others_go_on(trained, tmp_path):
    folder = tmp_path / "images"
    paths = write_images(folder)
    (folder / "1a.jpg").write_text("this is a text")
    (folder / "3.jpg").write_bytes(paths[0].read_bytes()[:60])
    for batch_size in (1, 2, 9):
        run = run_tool(predict, trained, folder, "--json", tmp_path / "r.json", "--force",
                       "--batch_size", batch_size, "--device", "cpu")  # fmt: skip
        assert run.code == 1 and run.out.endswith(f"3 of 5 image(s) in {tmp_path / 'r.json'}\n")
        named = [line for line in run.err.splitlines() if line.startswith("error: ")]
        assert [line.split(": ")[1] for line in named] == [
            str(folder / "1a.jpg"), str(folder / "3.jpg")
        ]  # fmt: skip
        entries = json.loads((tmp_path / "r.json").read_text())
        assert [entry["file_name"] for entry in entries] == [str(path) for path in paths]


def test_mistakes_are_answered_with_one_line(trained, checkpoint, tmp_path):
    (image,) = write_images(tmp_path / "images", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("this is a text")
    (tmp_path / "there.json").write_text("[]")
    for given, says in (
        ([trained, tmp_path / "empty"], "empty: no images in this folder"),
        ([trained, tmp_path / "none*.jpg"], "no such file"),
        ([trained, tmp_path / "text.jpg"], "text.jpg: not a readable image"),
        ([trained, image, "--json", tmp_path / "there.json"], "there.json: exists"),
        ([trained, image, "--json", tmp_path / "no" / "r.json"], "--json .*r.json: not a file"),
        ([trained, image, "--json", image, "--force"], "is one of the images"),
        ([tmp_path / "no.pth", image], "no.pth: no such checkpoint file"),
        ([checkpoint, image], "plain.pth: a detector's checkpoint, not a classifier's"),
        ([image, image], "0.png: not a whole checkpoint"),
        ([trained, image, "--topk", "0"], "--topk: must be"),
    ):
        line = line_of(predict, *given, "--device", "cpu")
        assert re.search(says, line), line
    assert "examples:" in run_tool(predict, "--help").out
    assert image.read_bytes()[:4] == b"\x89PNG"


def test_names_that_a_terminal_cannot_show(tmp_path):
    model = tiny_model(embed_dim=192, num_heads=3)
    names = [f"Bär {i} \x1b[2J" for i in range(5)]
    path = write_checkpoint(tmp_path / "c.pth", model, classes=names)
    (image,) = write_images(tmp_path / "images", 1)
    run = run_tool(predict, path, image, "--device", "cpu", encoding="ascii")
    assert run.code == 0 and run.out.count("B\\xe4r") == 5 and "\x1b" not in run.out
