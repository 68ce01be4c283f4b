"""What of a study is left to do, and doing it: here, one run at a time, or as jobs of Slurm."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slurm.options import node_count, tasks_per_node
from slurm.status import SlurmUnreachable, job_status
from tools.comparison.children import OUTPUT, Children
from tools.comparison.commands import ROOT
from tools.comparison.evaluations import evaluation_command, evaluation_folder
from tools.comparison.found_runs import FINISHED, FoundRun, check_metric, find_run
from tools.comparison.study import Study
from util.errors import UserError

JOBS = "jobs"


@dataclass(frozen=True)
class Launcher:
    """How jobs are submitted.

    Attributes:
        options: of the launcher, as words.
        waits: the launcher itself does the run, or waits for it, as with --cluster local.
        processes: of a job.
    """

    options: Sequence[str]
    waits: bool
    processes: int = 1


def job_launcher(args: argparse.Namespace, given: Sequence[str], names: Sequence[str]) -> Launcher:
    """Return the launcher for the job options of a command line.

    Args:
        given: names of options that the command line sets.
        names: of all job options.
    """
    words = [f"--{name}={getattr(args, name)}" for name in names if name in given]
    processes = node_count(args) * tasks_per_node(args)
    return Launcher(words, args.cluster != "slurm", processes)


def training_command(study: Study, run: FoundRun, launcher: Launcher | None = None) -> list[str]:
    """Return the command line of a run, which goes on where it was stopped."""
    options = study.run_options(run.configuration, run.seed)
    options += ["--output_dir", str(run.folder), "--resume", "auto"]
    if launcher is None:
        return [sys.executable, str(ROOT / study.command.name), *options]
    # Before the study's options, of which the last may take any number of words.
    jobs = ["--job_dir", str(run.folder / JOBS / "%j"), *launcher.options]
    return [sys.executable, str(ROOT / study.command.launcher), *jobs, *options]


def do_all(
    study: Study, root: Path, runs: Sequence[FoundRun], launcher: Launcher | None
) -> list[str]:
    """Do the runs and evaluations that are missing, one at a time.

    A run that fails does not keep the others from being done.

    Args:
        runs: in their order.
        launcher: that does the runs; None for the command itself.

    Returns:
        A line for each that has failed.

    Raises:
        StudyStopped: a signal stopped it.
        UserError: a folder cannot be written to, or has another run by now; or the study's metric
            is not in the log of the first run.
    """
    failed = []
    unlike = _other_processes(runs, launcher)
    with Children() as children:
        for number, run in enumerate(runs, start=1):
            what = f"run {number} of {len(runs)}, {run.name}"
            if run.state != FINISHED:
                children.wait_until_free(run.folder)
                run = find_run(study, root, run.configuration, run.seed)  # as it is by now
            if run.state != FINISHED and unlike:
                failed.append(f"{run.name}: {unlike}")
                continue
            if run.state != FINISHED:
                _say(f"{what}: training, see {run.folder / OUTPUT}")
                said = children.run(training_command(study, run, launcher), run.folder)
                run = find_run(study, root, run.configuration, run.seed)
                if said or run.state != FINISHED:
                    failed.append(f"{run.name}: {said or 'ended before its last epoch'}")
                    _say(f"{what}: failed: {said}")
                    continue
                check_metric(study, [run])
            for size in study.image_sizes:
                if size in run.sizes:
                    continue
                _say(f"{what}: evaluation at size {size}")
                command = evaluation_command(study, run.configuration, run.seed, run.folder, size)
                said = children.run(command, evaluation_folder(run.folder, size))
                if said:
                    failed.append(f"{run.name}, at size {size}: {said}")
                    _say(f"{what}, at size {size}: failed: {said}")
    return failed


def submit_missing(study: Study, runs: Sequence[FoundRun], launcher: Launcher) -> list[str]:
    """Submit a job for each run that is not finished and has none.

    Returns:
        A line for each that could not be submitted.

    Raises:
        StudyStopped: a signal stopped it.
        UserError: Slurm does not answer, or jobs would have other processes than the runs before.
    """
    failed = []
    unlike = _other_processes(runs, launcher)
    if unlike and any(run.state != FINISHED for run in runs):
        raise UserError(unlike)
    with Children() as children:
        for run in runs:
            if run.state == FINISHED:
                continue
            before = newest_job(run.folder)
            state = "" if before is None else _state_of(before)
            if state and not state.startswith("ended"):
                _say(f"{run.name}: job {before} is {state}")
                continue
            said = children.run(training_command(study, run, launcher), run.folder)
            if said:
                failed.append(f"{run.name}: {said}")
            after = f"job {before} has {state}; " if state else ""
            _say(f"{run.name}: {after}{'not submitted: ' + said if said else 'submitted'}"
                 f"{'' if said else f' job {newest_job(run.folder)}'}")  # fmt: skip
    left = sum(size not in run.sizes for run in runs for size in study.image_sizes)
    if left:
        _say(f"{left} evaluation(s) at image_sizes are left: the same command without --slurm, on "
             "a node that computes, does them once the runs are finished")  # fmt: skip
    return failed


def _other_processes(runs: Sequence[FoundRun], launcher: Launcher | None) -> str:
    """Return why no more runs can be trained in this way; "" if they can."""
    count = 1 if launcher is None else launcher.processes
    trained = {run.args.world_size for run in runs if run.args is not None} - {count}
    if not trained:
        return ""
    return (
        f"is not trained in {count} process(es), since the runs that are there had "
        f"{', '.join(map(str, sorted(trained)))}: give --slurm with --nodes and --ngpus as theirs, "
        "or leave --slurm out if they had 1"
    )


def newest_job(folder: Path) -> str | None:
    """Return the id of the last job that was submitted for a run; None without any.

    With --cluster local, ids are those of processes, which do not grow with time.
    """
    jobs = [path for path in (folder / JOBS).glob("*") if path.name.isdecimal()]
    newest = max(jobs, key=lambda path: (path.stat().st_mtime_ns, int(path.name)), default=None)
    return None if newest is None else newest.name


def _state_of(job: str) -> str:
    """Return a job's state, "ended as STATE" of one that is over; "" if Slurm has forgotten it."""
    try:
        status = job_status(job)
    except SlurmUnreachable as error:
        raise UserError(
            f"Slurm does not say whether job {job} is running ({error}): try again later, or add "
            "--read_only to see what there is"
        ) from error
    if status is None:
        return ""
    return f"ended as {status.state}" if status.is_over else status.state


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
