"""The runs of a study that lie in its folder: whose they are, how far, and their numbers."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from statistics import median
from typing import Any

from tools.comparison.evaluations import read_evaluation
from tools.comparison.study import Study
from training.early_stopping import Evaluations
from training.log import LOG, SPEED_TABLE, check_row, flat, read_log, read_table
from training.output_dir import LAST
from training.start.record import NOT_COMPARED, last_start, validation_data
from util.checkpoint import load_checkpoint
from util.errors import UserError, one_line
from util.schema import InvalidValue, describe

DATA_PATHS = ("coco_path", "coco_panoptic_path", "data_path")
ABSENT, UNFINISHED, FINISHED = "absent", "unfinished", "finished"


@dataclass
class FoundRun:
    """A run of a study, which may not be there yet.

    Attributes:
        state: ABSENT, UNFINISHED or FINISHED.
        args: of its checkpoint; None without.
        epochs: numbers of each epoch in log.txt, as from `training.log.flat`.
        speed: rows of speed.csv.
        version: of this project, that its checkpoint is of; "" if unknown.
        start: how it was started the last time, an entry of args.json; {} if unknown.
        sizes: numbers of finished evaluations, by image size.
    """

    configuration: str
    seed: int
    folder: Path
    state: str = ABSENT
    args: argparse.Namespace | None = None
    epochs: list[dict[str, float]] = field(default_factory=list)
    speed: list[dict[str, float]] = field(default_factory=list)
    sizes: dict[int, dict[str, float]] = field(default_factory=dict)
    version: str = ""
    start: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.configuration}, seed {self.seed}"

    def batch_size(self) -> int:
        """Return the images of a batch on all processes."""
        return self.args.batch_size * self.args.world_size

    def steps_of(self, images: float) -> int:
        """Return the steps of the optimizer for so many images."""
        return math.ceil(images / self.batch_size() / self.args.accumulate)

    def steps_per_epoch(self) -> int | None:
        """Return the steps of a whole epoch; None if speed.csv does not say.

        The row of an epoch that was stopped counts the images after the last stop alone.
        """
        images = [row["train_images"] for row in self.speed if row.get("train_images", 0) > 0]
        return self.steps_of(max(images)) if images else None

    def step_milliseconds(self) -> float | None:
        """Return the milliseconds of a training step, the median over epochs; None if unknown."""
        times = [
            1000 * row["train_seconds"] / self.steps_of(row["train_images"])
            for row in self.speed
            if row.get("train_images", 0) > 0 and row.get("train_seconds", 0) > 0
        ]
        return median(times) if times else None


def run_folder(root: Path, configuration: str, seed: int) -> Path:
    """Return the --output_dir of a run."""
    return root / configuration / f"seed_{seed}"


def find_runs(study: Study, root: Path) -> list[FoundRun]:
    """Read all runs of a study, in the order in which they are started.

    All configurations of the first seed come first, so that a study that is stopped can be
    compared over the seeds that it has.

    Raises:
        UserError: a run has other options than the study says, or cannot be read.
    """
    runs = [
        find_run(study, root, configuration, seed)
        for seed in study.seeds
        for configuration in study.configurations
    ]
    _check_comparable(study, runs)
    return runs


def _check_comparable(study: Study, runs: Sequence[FoundRun]) -> None:
    """Raise a UserError if runs differ in what their options leave to the machine or the data."""
    first_with: dict[tuple, tuple[Any, FoundRun]] = {}
    for run in (run for run in runs if run.args is not None):
        options = vars(study.expected_args(run.configuration, run.seed))
        data = options.get("coco_path"), options.get("data_path")
        evaluated = validation_data(run.start) or None
        for what, among, value, why in (
            ("processes", (), run.args.world_size, "their steps have other numbers of images"),
            ("--amp", (options.get("amp"),), run.args.amp, "they compute in another precision"),
            ("--num_classes", data, run.args.num_classes, "their data changed in between"),
            ("validation data", data, evaluated, "their data changed in between"),
        ):
            if value is None:
                continue
            before, first = first_with.setdefault((what, *among), (value, run))
            if before != value:
                raise UserError(
                    f"{run.folder}: has {what} {one_line(str(value), 40)}, {first.folder} has "
                    f"{one_line(str(before), 40)}: {why}, they cannot be compared; move one of "
                    "them away"
                )


def check_metric(study: Study, runs: Sequence[FoundRun]) -> None:
    """Raise a UserError if the study's metric is in no log of these runs."""
    logged = {name for run in runs for row in run.epochs for name in row}
    if study.metric and logged and study.metric not in logged:
        names = sorted(name for name in logged if name.startswith(("test_", "train_")))
        raise UserError(
            f"{study.path}: metric {study.metric} is in no log; there are: {', '.join(names)}"
        )


def find_run(study: Study, root: Path, configuration: str, seed: int) -> FoundRun:
    """Read a run, and check that it is the one that the study says.

    Raises:
        UserError: it has other options, or cannot be read.
    """
    run = FoundRun(configuration, seed, run_folder(root, configuration, seed))
    path = run.folder / LAST
    if not path.exists():
        if (run.folder / LOG).exists():
            raise UserError(
                f"{run.folder}: has {LOG} and no {LAST}, which tells the options of the run; move "
                "the folder away, and the run is done again"
            )
        return run
    content = load_checkpoint(str(path))
    run.args = _args_of(content, study, str(path))
    _check_same(study, run, path)
    run.version = one_line(str(content.get("version") or ""), 40)
    run.start = last_start(run.folder)
    task = study.command.task()
    rows = [] if not (run.folder / LOG).exists() else read_log(run.folder / LOG, task.log)[0]
    run.speed = read_table(run.folder / SPEED_TABLE)
    run.state = FINISHED if _is_finished(content, run.args, study, path) else UNFINISHED
    if run.state == FINISHED and rows == (content.get("log") or [])[: len(rows)]:
        rows = content.get("log") or rows  # a stop may have cut off the last line of the file
    run.epochs = [flat(row, task.log) for row in rows]
    if run.state == FINISHED:
        last = rows[-1]["epoch"] + 1 if rows else None
        if last != content["epoch"] + 1:
            raise UserError(
                f"{run.folder / LOG}: its last epoch is {last}, that of {LAST} is "
                f"{content['epoch'] + 1}; one of them is of another run: move the folder away, and "
                "the run is done again"
            )
        for size in study.image_sizes:
            numbers = read_evaluation(run.folder, size, rows[-1], task.log)
            if numbers is not None:
                run.sizes[size] = numbers
    return run


def _args_of(content: Any, study: Study, source: str) -> argparse.Namespace:
    kind = study.command.kind
    if not isinstance(content, dict) or not isinstance(content.get("args"), argparse.Namespace):
        raise UserError(f"{source}: not a {kind}'s checkpoint with the options of its run")
    # A checkpoint of an earlier version lacks the options that came later.
    defaults = vars(study.command.parse([], str(study.path))) | {"given": None}
    found = vars(study.command.checked_args(content["args"], source))
    args = argparse.Namespace()
    vars(args).update(defaults | found)
    for name in ("batch_size", "world_size", "accumulate"):
        count = getattr(args, name)
        if not isinstance(count, int) or count < 1:
            raise UserError(f"{source}: its option {name} is {describe(count)}")
    return args


def _check_same(study: Study, run: FoundRun, path: Path) -> None:
    """Raise a UserError for the options of a run that are not those of the study."""
    expected = study.expected_args(run.configuration, run.seed)
    found = option_differences(expected, run.args)
    if found:
        raise UserError(
            f"{path}: is of another run than {study.place(run.configuration)} with seed {run.seed} "
            f"says: {'; '.join(found)}. Choose another --output_dir, or move that run away"
        )


def option_differences(expected: argparse.Namespace, found: argparse.Namespace) -> list[str]:
    """Describe how the options of a run differ from those that a study says.

    Args:
        expected: parsed options, with the names of those given in `given`.
        found: of the run's checkpoint.
    """
    # --finetune chooses options that are not given by its checkpoint: what is given has to agree.
    chosen = bool(getattr(expected, "finetune", ""))
    names = [name for name in vars(expected) if name not in NOT_COMPARED]
    lines = []
    for name in names:
        want, have = _plain(getattr(expected, name)), _plain(getattr(found, name))
        of_data = name in ("num_classes", "category_ids") and want is None
        of_device = name == "amp" and want == "auto"
        if chosen and name not in expected.given and name not in (found.given or ()):
            continue
        same = want == have or (name in DATA_PATHS and _same_path(want, have))
        if not (same or of_data or of_device):
            lines.append(f"{name} is {_shown(have)} there and {_shown(want)} in the study")
    return lines


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, PurePath) else value


def _same_path(one: Any, other: Any) -> bool:
    """Say whether two texts lead to the same folder from here, as "data/" and "./data"."""
    texts = isinstance(one, str) and isinstance(other, str)
    return texts and Path(one).resolve() == Path(other).resolve()


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(describe, value[:10]))}]"
    return describe(value)


def _is_finished(content: dict, args: argparse.Namespace, study: Study, path: Path) -> bool:
    """Say whether a run has nothing left to do, as `TrainState.is_finished` does."""
    task = study.command.task()
    epoch, log = content.get("epoch"), content.get("log") or []
    try:
        for position, row in enumerate(log if isinstance(log, list) else [log]):
            check_row(row, f"log[{position}]", task.log)
    except InvalidValue as error:
        raise UserError(f"{path}: its log is damaged ({error})") from error
    if not isinstance(epoch, int) or content.get("pending") is not None:
        return False
    rounds = Evaluations(log, task.metrics).since_best()
    return epoch + 1 >= args.epochs or 0 < args.early_stop <= rounds
