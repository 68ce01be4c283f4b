"""Which runs belong to a study and can be compared; made up, and read with --read_only."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.helpers.tool_runs import line_of
from tests.tools.comparison.made_studies import AP, cells, read, write_run, write_study
from tools import compare
from tools.comparison.found_runs import option_differences
from tools.comparison.study import read_study


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lr": 0.5}, "lr is 0.5 there and 0.0001 in the study"),
        ({"seed": 9}, "seed is 9 there and 2 in the study"),
        ({"dec_rpe": ""}, "dec_rpe is '' there and 'box-log' in the study"),
        ({"aux_loss": False}, "aux_loss is False there and True in the study"),
        ({"coco_path": "other"}, "coco_path is 'other' there and 'data' in the study"),
    ],
)
def test_a_run_with_other_options_is_refused(path, root, changes, says):
    folder = root / "box" / "seed_2"
    shutil.rmtree(folder)
    write_run(root, read_study(path), "box", 2, AP["box"][2], **changes)
    said = line_of(compare, path, "--output_dir", root, "--read_only")
    assert f"{folder / 'checkpoint.pth'}: is of another run than {path}: configurations" in said
    assert f"configurations.box with seed 2 says: {says}. Choose" in said


def test_matters_of_the_machine_may_differ(path, root):
    shutil.rmtree(root / "box" / "seed_2")
    write_run(
        root, read_study(path), "box", 2, AP["box"][2],
        device="cuda", checkpoint_every=3, num_workers=1, trust_checkpoint=True,
    )  # fmt: skip
    assert cells(read(path, root)[0])["box"][0] == "3"


def test_numbers_of_processes_have_to_agree(path, root):
    shutil.rmtree(root / "box" / "seed_2")
    write_run(root, read_study(path), "box", 2, AP["box"][2], world_size=8)
    said = line_of(compare, path, "--output_dir", root, "--read_only")
    assert "seed_2: has processes 8, " in said and "seed_1 has 1: their steps have" in said


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_classes": 7}, "seed_2: has --num_classes 7, "),
        ({"amp": "fp16"}, "amp is 'fp16' there"),
    ],
)
def test_what_the_data_and_the_machine_decided_has_to_agree(path, root, changes, says):
    shutil.rmtree(root / "box" / "seed_2")
    write_run(root, read_study(path), "box", 2, AP["box"][2], **changes)
    assert says in line_of(compare, path, "--output_dir", root, "--read_only")


def test_precisions_that_the_device_chose_have_to_agree(tmp_path):
    """--amp auto of classifiers is fp16 on a GPU, and off on a CPU."""
    path = write_study(
        tmp_path, ('"main.py"', '"classification/main.py"'), ("--coco_path", "--data-path"),
        ("--batch_size 4", "--batch-size 4"), ('"--dec_rpe box-log"', '"--lr 1"'),
    )  # fmt: skip
    study, root = read_study(path), tmp_path / "out"
    for seed, amp in ((1, "off"), (2, "fp16")):
        write_run(root, study, "none", seed, (), amp=amp)
    said = line_of(compare, path, "--output_dir", root, "--read_only")
    assert "seed_2: has --amp fp16, " in said and "seed_1 has off: they compute" in said


def test_data_that_were_drawn_again_are_noticed(path, root):
    for name, data in (("none", "d1"), ("box", "d2")):
        start = {"options": {}, "validation_data": data}
        (root / name / "seed_1" / "args.json").write_text(json.dumps({"starts": [start]}))
    said = line_of(compare, path, "--output_dir", root, "--read_only")
    assert "seed_1: has validation data d2, " in said and "has d1: their data changed" in said
    # Configurations that name other data may differ.
    path.write_text(path.read_text().replace("box-log", "box-log --coco_path other"))
    for seed in (1, 2, 3):
        shutil.rmtree(root / "box" / f"seed_{seed}")
        write_run(root, read_study(path), "box", seed, AP["box"][seed])
    (root / "box" / "seed_1" / "args.json").write_text(json.dumps({"starts": [start]}))
    read(path, root)


def test_the_machines_of_the_runs_are_told(path, root):
    """Not the one that reads, which may be a login node."""
    machine = {"cpu": "Xeon", "threads": 8, "device": "cpu", "operators": "compiled"}
    for seed, threads in ((1, 8), (2, 8), (3, 4)):
        start = {"options": {}, "versions": {"torch": "2.6.0"}, **machine, "threads": threads}
        file = root / "box" / f"seed_{seed}" / "args.json"
        file.write_text(json.dumps({"starts": [{"options": {}}, start]}))
    wanted = {"torch": "2.6.0", **machine}
    eight, four = ({**wanted, "threads": count} for count in "84")
    assert read(path, root)[1]["made_on"] == [eight, four]
    assert "; runs with torch 2.6.0, Xeon\x22" in (root / "comparison.html").read_text()


def test_one_folder_has_many_names(path, root):
    shutil.rmtree(root / "box" / "seed_2")
    write_run(
        root, read_study(path), "box", 2, AP["box"][2], coco_path=str(Path("data").absolute())
    )
    assert cells(read(path, root)[0])["box"][0] == "3"


def test_what_the_data_decide_may_differ(path):
    study = read_study(path)
    wanted, found = study.expected_args("box", 1), study.expected_args("box", 1)
    found.num_classes, found.category_ids = 2, [5001, 9000]
    assert option_differences(wanted, found) == []
    wanted.num_classes, wanted.category_ids = 3, [1, 9000]
    assert len(option_differences(wanted, found)) == 2


def test_what_finetune_chooses_may_differ_and_what_is_given_may_not(tmp_path):
    path = write_study(tmp_path, ("--epochs 3", "--epochs 3 --finetune w.pth"))
    study = read_study(path)
    wanted, found = study.expected_args("box", 1), study.expected_args("box", 1)
    found.hidden_dim, found.lr_drop = 64, 2
    assert option_differences(wanted, found) == []
    found.given = [*found.given, "lr_drop"]
    assert option_differences(wanted, found) == ["lr_drop is 2 there and 200 in the study"]
    found.dec_rpe = ""
    assert len(option_differences(wanted, found)) == 2


def test_folders_that_do_not_fit(path, root):
    log = root / "none" / "seed_1" / "log.txt"
    whole = log.read_text()
    log.write_text("".join(whole.splitlines(keepends=True)[:2]))  # the checkpoint has the third
    assert cells(read(path, root)[0])["none"][:2] == ["3", "0.5200"]
    log.write_text("".join(whole.splitlines(keepends=True)[:2]).replace("3.9", "3.8"))
    said = line_of(compare, path, "--output_dir", root, "--read_only")
    assert f"{log}: its last epoch is 2, that of checkpoint.pth is 3" in said
    assert "move the folder away" in said
    log.write_text("no log\n")
    said = line_of(compare, path, "--output_dir", root, "--read_only")
    assert f"{log}: not a log of a run" in said
    checkpoint = log.with_name("checkpoint.pth")
    torch.save({"model": {}}, checkpoint)
    said = line_of(compare, path, "--output_dir", root, "--read_only")
    assert f"{checkpoint}: not a detector's checkpoint with the options of its run" in said
    checkpoint.write_bytes(checkpoint.read_bytes()[:-40])
    said = line_of(compare, path, "--output_dir", root, "--read_only")
    assert f"{checkpoint}: not a whole checkpoint" in said
    checkpoint.unlink()
    said = line_of(compare, path, "--output_dir", root, "--read_only")
    assert f"{log.parent}: has log.txt and no checkpoint.pth" in said
