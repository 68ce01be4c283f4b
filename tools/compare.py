"""Compare configurations over seeds: train them, and say which differences the seeds show.

STUDY is a TOML file that names the command, its options, the configurations and the seeds;
docs/comparing.md says how to write one. Each run has a folder CONFIGURATION/seed_N in --output_dir.
Finished runs are not repeated and stopped ones go on: after an interruption run the same command
again. The table is printed, and written with all numbers to comparison.json and, with curves, to
comparison.html and comparison.png.

examples:
  python tools/compare.py studies/dec_rpe/study.toml --output_dir output/dec_rpe
  python tools/compare.py study.toml --output_dir output/study --slurm --ngpus 8 --nodes 1
  python tools/compare.py study.toml --output_dir output/study --read_only
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from slurm.options import add_job_options
from util.cli import OneLineParser, answer_first, options_given, run_command
from util.files import check_exists


def get_args_parser() -> OneLineParser:
    parser = OneLineParser(prog="compare.py", description=__doc__)
    add = parser.add_argument
    add("study", type=Path, metavar="STUDY", help="study file (TOML)")
    add("--output_dir", type=Path, required=True, metavar="DIR", default=argparse.SUPPRESS,
        help="folder of all runs, and of comparison.json, .html and .png")  # fmt: skip
    add("--read_only", action="store_true",
        help="train nothing: read the runs that are there, and write their report")  # fmt: skip
    add("--slurm", action="store_true",
        help="submit the runs that are missing as jobs, by run_with_submitit.py with the job "
        "options below, but --job_dir and --follow, and read what is there; with --cluster slurm, "
        "do not wait for them")  # fmt: skip
    add_job_options(parser, timeout=None)
    parser.file_checks.append(lambda args: check_exists(args.study))
    return parser


if __name__ == "__main__":
    answer_first(get_args_parser)

from tools.comparison.children import StudyStopped
from tools.comparison.found_runs import ABSENT, FINISHED, find_runs
from tools.comparison.report import write_report
from tools.comparison.results import Results
from tools.comparison.schedule import Launcher, do_all, job_launcher, submit_missing
from tools.comparison.study import Study, read_study
from tools.comparison.table import format_table
from training.output_dir import lock_folder
from util.errors import UserError
from util.signals import EXIT_STOPPED


def launcher_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Launcher | None:
    """Return how jobs are submitted; None without --slurm.

    Raises:
        UserError: options do not fit each other.
    """
    job_parser = argparse.ArgumentParser(add_help=False)
    add_job_options(job_parser)
    names = list(vars(job_parser.parse_args([])))
    given = options_given(parser)
    of_jobs = [name for name in names if name in given]
    if args.slurm and args.read_only:
        raise UserError("--slurm submits jobs, --read_only starts nothing: leave out one of them")
    if of_jobs and not args.slurm:
        raise UserError(f"--{of_jobs[0]} is of jobs: add --slurm")
    for name, reason in (
        ("job_dir", "each run has its own, jobs/ in its folder"),
        ("follow", "it would wait for one job; run the same command again to see how far all are"),
    ):
        if name in of_jobs:
            raise UserError(f"--{name} is not for studies: {reason}")
    return job_launcher(args, given, names) if args.slurm else None


def start_missing(study: Study, root: Path, launcher: Launcher | None) -> list[str]:
    """Check everything, and do or submit what is missing; returns a line for each failure."""
    study.check_files(root)
    runs = find_runs(study, root)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {root}: cannot be made ({error.strerror})") from error
    lock = lock_folder(root)
    try:
        if launcher is not None and not launcher.waits:
            return submit_missing(study, runs, launcher)
        return do_all(study, root, runs, launcher)
    finally:
        if lock is not None:
            lock.close()


def main() -> None:
    parser = get_args_parser()
    args = parser.parse_args()
    launcher = launcher_of(parser, args)
    study, root = read_study(args.study), args.output_dir
    failed = []
    if args.read_only:
        if not root.is_dir():
            raise UserError(f"--output_dir {root}: no such folder, and --read_only makes none")
    else:
        try:
            failed = start_missing(study, root, launcher)
        except StudyStopped:
            print("stopped: the same command goes on from here", file=sys.stderr, flush=True)
            sys.exit(EXIT_STOPPED)
    runs = find_runs(study, root)
    if args.read_only and all(run.state == ABSENT for run in runs):
        raise UserError(f"--output_dir {root}: has no run of {args.study}")
    results = Results(study, runs)
    print(format_table(results))
    write_report(results, root, sys.argv)
    if failed:
        raise UserError(f"{len(failed)} failed; the same command tries again: {'; '.join(failed)}")
    left = sum(run.state != FINISHED for run in runs)
    print(f"{len(runs) - left} of {len(runs)} runs finished; {root / 'comparison.html'}",
          file=sys.stderr)  # fmt: skip


if __name__ == "__main__":
    run_command(main)
