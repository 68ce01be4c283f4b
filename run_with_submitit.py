"""Train DETR with iRPE on a Slurm cluster: submits main.py, with all of its options, as a job.

example:
  python run_with_submitit.py --ngpus 8 --nodes 4 --timeout 3200 --coco_path /path/to/coco
"""

import argparse
import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import submitit

import main as detection
from slurm import slurm
from slurm.follow import Follower
from util import dist
from util.command_line import (
    OneLineParser,
    number,
    options_given,
    run_command,
    whole_number,
)
from util.errors import UserError
from util.stopping import EXIT_STOPPED, Stopped

# A job may reach its time limit this often: training goes on over weeks.
MOST_TIME_LIMITS = 1000
# Options that only Slurm understands.
SLURM_OPTIONS = ("partition", "qos", "account", "constraint", "mem_gb", "comment")
# Until Python has put up handlers, a preemption would end the tasks, which Slurm takes for a crash.
PATIENT_START = 'trap "" TERM USR2; exec "$0" "$@"'
START_MARK = "-- start of the tasks"


class Trainer:
    """What each task of the job runs.

    Args:
        args: options of main.py.
        restarted: this continues a job that was queued again.
    """

    def __init__(self, args: argparse.Namespace, restarted: bool = False):
        self.args = args
        self.restarted = restarted
        self.submitted = time.time()

    def __call__(self) -> None:
        # srun adds the failures of tasks to the first one's file; this tells those of each start.
        print(START_MARK, file=sys.stderr, flush=True)
        # MASTER_ADDR, RANK, WORLD_SIZE, LOCAL_RANK, as torchrun would set them.
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        job = submitit.JobEnvironment()
        args = argparse.Namespace(**vars(self.args))  # main writes to it, a restart begins anew
        args.output_dir = args.output_dir or str(job.paths.folder)
        # Slurm restarts a job of its own accord when a node fails.
        restarted = self.restarted or int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
        if restarted and self._has_saved(Path(args.output_dir)):
            args.resume = "auto"
        try:
            detection.main(args)
        except Stopped as stopped:
            if stopped.signum == signal.SIGCHLD:  # not asked to: memory would run out again
                raise
            leave(job, stopped.signum)
        ignore_signals()
        dist.shut_down()

    def _has_saved(self, folder: Path) -> bool:
        """Has this job, and not an earlier run in the same folder, saved a checkpoint?"""
        return any(path.stat().st_mtime > self.submitted for path in folder.glob("checkpoint*.pth"))

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What submitit queues instead. Everything is saved by then."""
        again = Trainer(self.args, restarted=True)
        again.submitted = self.submitted
        return submitit.helpers.DelayedSubmission(again)

    __submitit_checkpoint__ = checkpoint  # its name in newer versions of submitit


def ignore_signals() -> None:
    """For a task that ends: Python takes its handlers down first, then a signal would kill it."""
    for name in ("SIGTERM", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def leave(job: submitit.JobEnvironment, signum: int) -> None:
    """End a task that was stopped and has saved; the first one queues the job again.

    SystemExit, unlike an error, leaves no result behind, which would end the job for submitit.
    """
    user_signal = getattr(signal, f"SIG{job.USR_SIG}")
    requeue = signal.getsignal(user_signal)
    ignore_signals()
    if job.global_rank != 0:
        # Not a failure: that would end the step, and with it the first task before it is done.
        sys.exit(0)
    if job.cluster == "slurm":
        # A preempted job is running while its grace lasts, a cancelled one is not.
        again = slurm.is_running(job.job_id)
    else:
        again = job.cluster == "local" and signum == user_signal
    if not again:
        print("the job ends, it is not queued again", flush=True)
        sys.exit(EXIT_STOPPED)
    # Called, not raised as a signal: another one in the middle of it would queue the job twice.
    requeue(user_signal, None)


def add_job_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("job")
    add = group.add_argument
    add(
        "--ngpus",
        default=8,
        type=whole_number(0),
        help="GPUs and tasks of each node; 0 for nodes without GPU",
    )
    add(
        "--tasks_per_node",
        default=None,
        type=whole_number(1),
        help="tasks of each node; None for one a GPU, or one without GPUs",
    )
    add(
        "--nodes",
        default=None,
        type=whole_number(1),
        help="nodes; None for 2, or this one with --cluster local and debug",
    )
    add(
        "--timeout",
        default=60,
        type=whole_number(1),
        help="minutes; at their end a Slurm job saves, is queued again and goes on",
    )
    add("--cpus_per_task", default=10, type=whole_number(1), help="CPU cores (Slurm)")
    add("--mem_gb", default=None, type=number(0), help="memory of each node (Slurm)")
    add("--partition", default=None, help="Slurm partition")
    add("--qos", default=None, help="Slurm quality of service")
    add("--account", default=None, help="Slurm account")
    add("--constraint", default=None, help="features of nodes (Slurm)")
    add("--comment", default=None, help="any words, shown by Slurm")
    add(
        "--job_dir",
        default="jobs/%j",
        help="logs and checkpoints, on a disk all nodes see; %%j is the job's id",
    )
    add(
        "--cluster",
        default="slurm",
        choices=("slurm", "local", "debug"),
        help="Slurm, processes on this machine, or this very process",
    )
    add(
        "--follow",
        action="store_true",
        help="print the log of the first task until the job is over; Ctrl-C leaves the job alone",
    )


def check_job(args: argparse.Namespace) -> None:
    """Raise a UserError for options of the job that cannot be; fill in those that depend."""
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
    args.nodes = args.nodes or (2 if args.cluster == "slurm" else 1)

    args.job_dir = str(Path(args.job_dir).expanduser().absolute())
    if "%" in args.job_dir.replace("%j", ""):
        raise UserError(f"--job_dir {args.job_dir}: of Slurm's patterns only %j is understood")
    if args.cluster == "slurm" and shutil.which("srun") is None:
        raise UserError("--cluster slurm: there is no srun here; submit from a node of the cluster")
    before_id = submitit.core.utils.JobPaths.get_first_id_independent_folder(args.job_dir)
    try:
        before_id.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--job_dir {before_id}: cannot be made ({error.strerror})") from error
    if not os.access(before_id, os.W_OK):
        raise UserError(f"--job_dir {before_id}: cannot be written to")


def build_executor(args: argparse.Namespace) -> submitit.AutoExecutor:
    executor = submitit.AutoExecutor(
        folder=args.job_dir,
        cluster=args.cluster,
        slurm_max_num_timeout=MOST_TIME_LIMITS,
        slurm_python=shlex.join(["sh", "-c", PATIENT_START, sys.executable]),
    )
    parameters = {
        "name": "detr",
        "nodes": args.nodes,
        "tasks_per_node": args.tasks_per_node or max(args.ngpus, 1),
        "cpus_per_task": args.cpus_per_task,
        "timeout_min": args.timeout,
        # Time to end a step and save; short jobs have less.
        "slurm_signal_delay_s": min(120, args.timeout * 60 // 4),
        # One task that fails ends all; srun does not take over the cores of the job by itself.
        "slurm_srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={args.cpus_per_task}"],
        "slurm_additional_parameters": {"requeue": True},
    }
    if args.ngpus or args.cluster != "slurm":  # clusters without GPUs may refuse a 0
        parameters["gpus_per_node"] = args.ngpus
    if args.mem_gb is not None:
        parameters["mem_gb"] = args.mem_gb
    for name in ("partition", "qos", "account", "constraint", "comment"):
        if getattr(args, name) is not None:
            parameters[f"slurm_{name}"] = getattr(args, name)
    executor.update_parameters(**parameters)
    return executor


def run_here(args: argparse.Namespace) -> None:
    """The run itself; submitit's way would end in a debugger when it fails, or is stopped."""
    args.output_dir = args.output_dir or args.job_dir.replace("%j", "debug")
    print(f"in this process, checkpoints in {args.output_dir}", flush=True)
    detection.main(args)
    dist.shut_down()


def failure(job: submitit.Job, state: str = "FAILED") -> str:
    """Which task failed first, as far as srun says, and the log to read."""
    what, log = "", job.paths.stderr
    try:
        said = log.read_text(errors="replace").rpartition(START_MARK)[2]
    except OSError:
        said = ""
    first = re.search(r"srun: error: \S+: tasks? (\d+)[\d,-]*: (.+)", said)
    if first and state == "FAILED":
        what = f" (task {first[1]}: {first[2]})"
        log = job.task(int(first[1])).paths.stderr
    return f"{what}, its log: {log}"


def submit() -> None:
    parser = OneLineParser(
        description=__doc__.splitlines()[0], parents=[detection.get_args_parser()]
    )
    add_job_options(parser)
    args = parser.parse_args()
    args.given = options_given(parser)
    detection.check_args(args)
    check_job(args)

    if args.cluster == "debug":
        run_here(args)
        return
    # Tasks import this program's modules, from whatever folder it was called.
    root, earlier = str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{root}:{earlier}" if earlier else root
    sbatch_says = io.StringIO()
    try:
        with contextlib.redirect_stderr(sbatch_says):  # submitit prints it besides
            job = build_executor(args).submit(Trainer(args))
    except submitit.core.utils.FailedJobError as error:
        reason = " ".join(sbatch_says.getvalue().split()) or str(error)
        raise UserError(f"Slurm refuses the job: {reason}") from error
    print(f"Submitted job {job.job_id}, logs and checkpoints in {job.paths.folder}", flush=True)

    if args.cluster != "slurm":
        try:
            job.results()
        except submitit.core.utils.FailedJobError as error:
            raise UserError(f"job {job.job_id} failed{failure(job)}") from error
    elif args.follow:
        try:
            state = Follower(job.job_id, [job.paths.stdout, job.paths.stderr]).follow()
        except KeyboardInterrupt:
            print(f"\njob {job.job_id} goes on; `scancel {job.job_id}` ends it", flush=True)
            sys.exit(128 + signal.SIGINT)
        if state != "COMPLETED":
            raise UserError(f"job {job.job_id} ended as {state}{failure(job, state)}")


if __name__ == "__main__":
    run_command(submit)
