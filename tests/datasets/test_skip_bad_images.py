"""--skip_bad_images: what replaces a bad image, and what is reported and counted."""

import json

import pytest
import torch
from torch.utils.data import DataLoader

from datasets import build_dataset
from tests.helpers.commands import MAIN, TINY_RUN, run_ok
from tests.hostile.annotations import (
    CASES,
    CUT,
    GONE,
    TEXT,
    Case,
    error_of,
    has_outlines,
    training_data,
    write_split,
)
from util.errors import UserError


def mixed_cases() -> dict[str, Case]:
    """Good images between all kinds of bad ones."""
    cases = {"good 0": Case("", [{}])}
    for name, case in CASES.items():
        if not has_outlines(case):
            cases |= {name: case, f"good after {name}": Case("", [{}])}
    cases["bad at the end"] = CASES["missing"]
    return cases


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_skipped(tmp_path, workers, capfd):
    cases = mixed_cases()
    names = list(cases)
    root = write_split(tmp_path, cases)
    dataset = training_data(root, skip_bad_images=True)
    assert len(dataset) == len(cases) and dataset.skipped() == []
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=False)
    bad = [name for name in names if not name.startswith("good")]
    given = list(range(len(names)))
    for name in bad:
        i = names.index(name)
        given[i] = 0 if name == "bad at the end" else i + 1
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        samples = list(loader)
        assert [t["image_id"].item() - 1 for _, t in samples] == given
        # The replacement is the very sample that it is in its own place.
        for i, place in enumerate(given):
            assert torch.equal(samples[i][0], samples[place][0])
        assert len(dataset.skipped()) == len(bad)
    lines = capfd.readouterr().err.splitlines()
    for name in bad:
        wanted = f"skipped: {error_of(root, cases, name)}"
        assert sum(line.startswith(wanted) for line in lines) == 1, name
    assert len(lines) == len(bad)


def test_replacements_do_not_depend_on_what_was_read_before(tmp_path):
    cases = {name: Case("", [{}], file=kind) for name, kind in
             {"a": TEXT, "b": GONE, "c": "", "d": CUT, "e": ""}.items()}  # fmt: skip
    root = write_split(tmp_path, cases)
    forwards = training_data(root, skip_bad_images=True)
    backwards = training_data(root, skip_bad_images=True)
    wanted = list(forwards)
    assert [t["image_id"].item() for _, t in wanted] == [3, 3, 3, 5, 5]
    for i in (4, 3, 2, 1, 0):
        assert torch.equal(backwards[i][0], wanted[i][0])
    assert forwards.skipped() == backwards.skipped() and len(forwards.skipped()) == 3


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_an_image_is_skipped_once_by_all_workers(tmp_path, context, capfd):
    """All workers meet it at once: there is only one good image, which every sample becomes."""
    cases = {"a": Case("", [{}]), **{f"text {i}": Case("", [{}], file=TEXT) for i in range(6)}}
    dataset = training_data(write_split(tmp_path, cases), skip_bad_images=True)
    loader = DataLoader(dataset, batch_size=None, num_workers=3, multiprocessing_context=context)
    assert {target["image_id"].item() for _, target in loader} == {1}
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 6 == len(set(lines))


def test_only_bad_images_are_an_error(tmp_path):
    cases = {"a": Case("", file=GONE), "b": Case("", file=TEXT), "c": CASES["nan"]}
    dataset = training_data(write_split(tmp_path, cases), skip_bad_images=True)
    for _ in range(2):
        with pytest.raises(UserError, match="all 3 images are bad") as error:
            dataset[1]
        assert "\n" not in str(error.value)


def test_outlines_are_skipped_where_they_are_used(tmp_path):
    cases = {"good": Case("", [{}]), "odd": CASES["odd"]}
    root = write_split(tmp_path, cases)
    cases["good"].annotations[0]["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    write_split(tmp_path, cases)
    for masks, skipped in ((False, 0), (True, 1)):
        dataset = training_data(root, return_masks=masks, skip_bad_images=True)
        assert len(list(dataset)) == 2 and len(dataset.skipped()) == skipped


def test_a_damaged_archive_stops_also_where_bad_images_are_skipped(tmp_path):
    root = write_split(tmp_path, {"a": Case("", file=GONE), "b": Case("")})
    (root / "train2017.zip").write_bytes(b"PK no archive")
    with pytest.raises(UserError, match=r"train2017\.zip: not a readable zip archive"):
        training_data(root, skip_bad_images=True)


def test_only_training_skips(tmp_path, args):
    cases = {"good": Case("", [{}]), "text": CASES["text"]}
    root = write_split(write_split(tmp_path, cases), cases, "val")
    options = args("--coco_path", root, "--skip_bad_images", "--image_size", 64)
    train, val = (build_dataset(split, options) for split in ("train", "val"))
    assert len(list(train)) == 2 and len(train.skipped()) == 1
    with pytest.raises(UserError, match=r"instances_val2017\.json: image 2: .*not a readable"):
        list(val)
    assert val.skipped() == []
    options.skip_bad_images = False
    with pytest.raises(UserError, match=r"instances_train2017\.json: image 2: .*not a readable"):
        list(build_dataset("train", options))


def test_a_run_that_skips(tmp_path):
    cases = {"good": Case("", [{}]), "text": CASES["text"], "nan": CASES["nan"]}
    root = write_split(write_split(tmp_path, cases), {"good": Case("", [{}])}, "val")
    options = ["--epochs", "1", "--batch_size", "1", "--num_workers", "2", "--skip_bad_images"]
    result = run_ok(MAIN, *TINY_RUN, "--coco_path", root, *options, "--output_dir", tmp_path / "o")
    assert "2 bad image(s) skipped so far" in result.stdout
    assert json.loads((tmp_path / "o" / "log.txt").read_text())["train_skipped_images"] == 2
    for name in ("text", "nan"):
        assert result.stderr.count(f"skipped: {error_of(root, cases, name)}\n") == 1
