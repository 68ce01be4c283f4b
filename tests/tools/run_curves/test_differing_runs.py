"""How runs differ by their args.json, and the mean of those that differ in the seed alone."""

import json

import pytest

from tests.helpers.commands import run_ok
from tests.tools.run_curves.run_logs import ONE, TWO, epoch_row, made_with, write_log
from tools.run_curves.options import MAX_SHOWN, differences, mean_over_seeds
from tools.run_curves.picture import draw_curves
from tools.run_curves.runs import LoggedRun, read_run


def run(name: str, data: str = "d", losses=(4.0, 2.0), **options) -> LoggedRun:
    rows = [epoch_row(epoch, loss) for epoch, loss in enumerate(losses)]
    return LoggedRun(name, rows, start=made_with(data, **options))


def test_the_last_start_counts(tmp_path):
    folder = write_log(tmp_path / "run", ONE)
    assert read_run(folder).start == {} and read_run(folder).data == ""
    starts = {"starts": [made_with(lr=1), made_with("e", lr=2)]}
    (folder / "args.json").write_text(json.dumps(starts))
    assert read_run(folder).start["options"]["lr"] == 2 and read_run(folder).data == "e"


def test_options_that_differ():
    """Where a run is does not count; what a run does not say is not known."""
    one, two = run("a", lr=1e-4, masks=False, output_dir="a"), run("b", lr=1e-3, new=[1, 2])
    assert differences([one, two, LoggedRun("old", TWO)]) == [
        ("--lr", ["0.0001", "0.001", "unknown"]),
        ("--masks", ["False", "", "unknown"]),
        ("--new", ["", "1, 2", "unknown"]),
    ]
    assert differences([one, one]) == differences([LoggedRun("old", TWO)]) == []
    two.start["git"] = {"commit": "d" * 40, "changed": True}
    found = dict(differences([one, run("c", "other"), two]))
    assert found["commit"] == ["c" * 10, "c" * 10, "d" * 10 + ", changed"]
    assert found["validation data"] == ["d", "other", "d"]


def test_values_are_short_and_printable():
    ((_, (value, _)),) = differences([run("a", lr="\x1b" + "x" * 9999), run("b")])
    assert len(value) < MAX_SHOWN + 9 and value.isprintable()
    odd = LoggedRun("odd", TWO, start={"options": {"lr": {"a": []}}, "git": 3, "processes": []})
    assert dict(differences([odd, run("b")]))["--lr"] == ["{'a': []}", "0.0001"]


def test_runs_that_differ_in_the_seed_alone_are_one():
    runs = [
        run("a/seed_1"), run("b", lr=1), run("a/seed_2", losses=(5, 1, 1), seed=2, num_workers=9),
        run("a/seed_2b", seed=2), run("a/other", "e", seed=3), LoggedRun("old", TWO),
    ]  # fmt: skip
    found = mean_over_seeds(runs)
    names = ["a (2 seeds)", "b", "a/seed_2b", "a/other", "old"]
    assert [one.name for one in found] == names
    mean = found[0]
    assert mean.points("train_loss") == [(1, 4.5), (2, 1.5)] and len(mean.epochs) == 2
    assert mean.band("train_loss") == [(1, 4, 5), (2, 1, 2)]
    assert found[1].band("train_loss") == []
    assert dict(differences(found[:2]))["--seed"] == ["1, 2", "1"]


def test_means_of_one_name_are_told_apart():
    runs = [run(f"run_{i}", seed=i % 2, lr=1e-4 * (1 + i // 2)) for i in range(4)]
    names = [mean.name for mean in mean_over_seeds(runs)]
    assert names == ["run_0, run_1 (2 seeds)", "run_2, run_3 (2 seeds)"]


def test_runs_that_cannot_be_averaged_stay_apart():
    """Without a common epoch, or in other numbers of processes, whose steps are others."""
    late = run("late", seed=2)
    late.epochs = [{**row, "epoch": row["epoch"] + 5} for row in late.epochs]
    eight = run("eight", seed=3)
    eight.start["processes"] = 8
    for other in (late, eight):
        found = mean_over_seeds([run("early"), other])
        assert [one.name for one in found] == ["early", other.name]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("a/seed_1", "a/seed_12"), "a"), (("run2-1", "run2-2"), "run2"),
        (("seed_1", "seed_2"), "seed_1, seed_2"), (("a", "b"), "a, b"),
    ],
)  # fmt: skip
def test_a_mean_is_called_by_what_names_have_in_common(names, shown):
    (mean,) = mean_over_seeds([run(name, seed=seed) for seed, name in enumerate(names)])
    assert mean.name == f"{shown} (2 seeds)"


def test_bands_are_drawn(tmp_path):
    runs = [run("a/1"), run("a/2", seed=2, losses=(5, 1))]
    draw_curves(runs, tmp_path / "runs.svg")
    draw_curves(mean_over_seeds(runs), tmp_path / "mean.svg")
    shown = [(tmp_path / f"{name}.svg").read_text() for name in ("runs", "mean")]
    assert ["FillBetween" in text for text in shown] == [False, True]


@pytest.mark.slow
def test_the_command_says_when_nothing_can_be_put_together(tmp_path):
    for seed in (1, 2):
        folder = write_log(tmp_path / "runs" / f"seed_{seed}", TWO)
        starts = {"starts": [made_with(seed=seed)]}
        (folder / "args.json").write_text(json.dumps(starts))
    command = ["tools/plot_logs.py", tmp_path / "runs", "--mean", "--output", tmp_path / "c.html"]
    assert "--mean:" not in run_ok(*command).stdout
    assert "(2 seeds)" in (tmp_path / "c.html").read_text()
    (folder / "args.json").unlink()
    assert "no two of the runs differ in --seed alone" in run_ok(*command, "--force").stdout
