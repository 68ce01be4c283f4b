"""Options of a job, and whether they fit each other and this machine."""

import argparse
import os
import shutil
from pathlib import Path

import submitit

from util.cli import OneLineParser, number, whole_number
from util.errors import UserError

# Options that only Slurm understands.
SLURM_OPTIONS = ("partition", "qos", "account", "constraint", "mem_gb", "comment")


def job_parser(
    description: str, program: argparse.ArgumentParser, timeout: int = 60
) -> OneLineParser:
    """Return the parser of a command that submits a program as a job.

    Args:
        program: parser of the program's options, for use as a parent.
        timeout: the default of --timeout, in minutes.
    """
    parser = OneLineParser(description=description, parents=[program])
    add_job_options(parser, timeout)
    return parser


def add_job_options(parser: argparse.ArgumentParser, timeout: int | None = 60) -> None:
    """Add what describes a job.

    Args:
        timeout: the default of --timeout, in minutes; None for that of the program's launcher.
    """
    add = parser.add_argument_group("job").add_argument
    add("--ngpus", default=8, type=whole_number(0),
        help="GPUs and tasks of each node; 0 for nodes without GPU")  # fmt: skip
    add("--tasks_per_node", default=None, type=whole_number(1),
        help="tasks of each node; by default one for each GPU, or one without GPUs")  # fmt: skip
    add("--nodes", default=None, type=whole_number(1),
        help="nodes; by default 2, or this one with --cluster local and debug")  # fmt: skip
    add("--timeout", default=timeout, type=whole_number(1),
        help="minutes, after which a Slurm job saves, is requeued and continues"
        + "; by default 60, of classifiers 2800" * (timeout is None))  # fmt: skip
    add("--cpus_per_task", default=10, type=whole_number(1), help="CPU cores (Slurm)")
    add("--mem_gb", default=None, type=number(0), help="memory of each node (Slurm)")
    add("--partition", default=None, help="Slurm partition")
    add("--qos", default=None, help="Slurm quality of service")
    add("--account", default=None, help="Slurm account")
    add("--constraint", default=None, help="features of nodes (Slurm)")
    add("--comment", default=None, help="any words, shown by Slurm")
    add("--job_dir", default="jobs/%j",
        help="logs, and checkpoints without --output_dir; on a disk that all nodes see; %%j is "
        "the job's id")  # fmt: skip
    add("--cluster", default="slurm", choices=("slurm", "local", "debug"),
        help="Slurm, processes on this machine, or this very process")  # fmt: skip
    add("--follow", action="store_true",
        help="print the first task's log until the job is over; Ctrl-C ends only this")  # fmt: skip


def node_count(args: argparse.Namespace) -> int:
    """Return how many nodes a job has."""
    return args.nodes or (2 if args.cluster == "slurm" else 1)


def tasks_per_node(args: argparse.Namespace) -> int:
    """Return how many processes of a job each node has."""
    return args.tasks_per_node or max(args.ngpus, 1)


def check_job(args: argparse.Namespace) -> None:
    """Raise a UserError for invalid job options; set --nodes and --job_dir to what they mean."""
    if args.cluster != "slurm":
        given = [f"--{name}" for name in SLURM_OPTIONS if getattr(args, name) is not None]
        if given:
            raise UserError(f"{', '.join(given)}: only with --cluster slurm")
        if (args.nodes or 1) > 1:
            raise UserError(f"--nodes {args.nodes}: --cluster {args.cluster} is this machine alone")
    for name in SLURM_OPTIONS:
        if getattr(args, name) == "":
            raise UserError(f"--{name} is empty; leave it out")
    if args.mem_gb is not None and args.mem_gb * 1024 < 1:
        raise UserError(f"--mem_gb {args.mem_gb:g}: must be more than 0")
    args.nodes = node_count(args)

    args.job_dir = str(Path(args.job_dir).expanduser().absolute())
    if "%" in args.job_dir.replace("%j", ""):
        raise UserError(f"--job_dir {args.job_dir}: only %j is replaced, no other pattern of Slurm")
    if args.cluster == "slurm" and shutil.which("srun") is None:
        raise UserError("--cluster slurm: there is no srun here; submit from a node of the cluster")
    folder = submitit.core.utils.JobPaths.get_first_id_independent_folder(args.job_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--job_dir {folder}: cannot be created ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"--job_dir {folder}: cannot be written to")
