"""Submit a program with its options as a job, and wait for the job's end where that is wanted."""

import argparse
import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import NamedTuple

import submitit

from slurm.executor import build_executor
from slurm.follow import JobFollower
from slurm.job import ROOT, START_MARK, Trainer, import_program
from slurm.options import check_job
from util.cli import options_given
from util.distributed import shut_down
from util.errors import UserError


class Task(NamedTuple):
    """What a job is to do; a command that submits jobs hands it in.

    Attributes:
        name: Of the job, which Slurm shows.
        program: Name of a module that a job can import, whose `main` does the run.
        parser: Of the command, see `slurm.options.job_parser`.
        check: Raises a UserError for options that do not fit each other or the files on disk.
    """

    name: str
    program: str
    parser: argparse.ArgumentParser
    check: Callable[[argparse.Namespace], object]


def submit_job(task: Task) -> None:
    """Read the command line, and submit the job that it describes.

    Raises:
        UserError: options do not fit, Slurm refuses the job, or the job that was waited for failed.
    """
    args = task.parser.parse_args()
    args.given = options_given(task.parser)
    task.check(args)
    check_job(args)

    if args.cluster == "debug":
        run_here(task.program, args)
        return
    # Tasks import this program's modules, whatever folder it was called from.
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{ROOT}:{others}" if others else ROOT
    sbatch_errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(sbatch_errors):  # submitit would print them besides
            job = build_executor(args, task.name).submit(Trainer(task.program, args))
    except submitit.core.utils.FailedJobError as error:
        reason = " ".join(sbatch_errors.getvalue().split()) or str(error)
        raise UserError(f"Slurm refuses the job: {reason}") from error
    kept = "logs" if args.output_dir else "logs and checkpoints"
    print(f"Submitted job {job.job_id}, {kept} in {job.paths.folder}", flush=True)

    if args.cluster != "slurm":
        try:
            job.results()
        except submitit.core.utils.FailedJobError as error:
            raise UserError(f"job {job.job_id} failed{failure(job)}") from error
    elif args.follow:
        try:
            state = JobFollower(job.job_id, [job.paths.stdout, job.paths.stderr]).follow()
        except KeyboardInterrupt:
            print(f"\njob {job.job_id} continues; `scancel {job.job_id}` ends it", flush=True)
            sys.exit(128 + signal.SIGINT)
        if state != "COMPLETED":
            raise UserError(f"job {job.job_id} ended as {state}{failure(job, state)}")


def run_here(program: str, args: argparse.Namespace) -> None:
    """Run in this process; submitit would start a debugger when it fails or is stopped."""
    args.output_dir = args.output_dir or args.job_dir.replace("%j", "debug")
    print(f"in this process, checkpoints in {args.output_dir}", flush=True)
    import_program(program).main(args)
    shut_down()


def failure(job: submitit.Job, state: str = "FAILED") -> str:
    """Return the log to read, and the task that failed first if srun names it."""
    task, log = "", job.paths.stderr
    try:
        last_start = log.read_text(errors="replace").rpartition(START_MARK)[2]
    except OSError:
        last_start = ""
    first = re.search(r"srun: error: \S+: tasks? (\d+)[\d,-]*: (.+)", last_start)
    if first and state == "FAILED":
        task = f" (task {first[1]}: {first[2]})"
        log = job.task(int(first[1])).paths.stderr
    return f"{task}, its log: {log}"
