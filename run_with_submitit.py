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
from slurm.follow import JobFollower
from slurm.status import is_running
from util.cli import OneLineParser, number, options_given, run_command, whole_number
from util.distributed import shut_down
from util.errors import UserError
from util.signals import EXIT_STOPPED, Stopped

# How often a job may reach its time limit: training may take weeks.
MAX_TIMEOUTS = 1000
# Options that only Slurm understands.
SLURM_OPTIONS = ("partition", "qos", "account", "constraint", "mem_gb", "comment")
# Until Python has installed its handlers, a preemption's signals would end the tasks, which Slurm
# takes for a crash. main.py's handlers replace this.
START_COMMAND = 'trap "" TERM USR2; exec "$0" "$@"'
START_MARK = "-- start of the tasks"


class Trainer:
    """Runs main.py in each task of a job; submitit pickles it.

    Args:
        args: Options of main.py.
        restarted: True in a job that was requeued.
    """

    def __init__(self, args: argparse.Namespace, restarted: bool = False):
        self.args = args
        self.restarted = restarted
        self.submitted = time.time()

    def __call__(self) -> None:
        # srun appends the failures of tasks to the first one's file, over all starts of the job.
        print(START_MARK, file=sys.stderr, flush=True)
        # MASTER_ADDR, RANK, WORLD_SIZE, LOCAL_RANK, as torchrun would set them.
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        job = submitit.JobEnvironment()
        args = argparse.Namespace(**vars(self.args))  # a copy: main writes to it
        args.output_dir = args.output_dir or str(job.paths.folder)
        # Slurm restarts a job by itself when a node fails.
        restarted = self.restarted or int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
        if restarted and self._has_saved(Path(args.output_dir)):
            args.resume = "auto"
        try:
            detection.main(args)
        except Stopped as stopped:
            if stopped.signum == signal.SIGCHLD:  # a killed worker: memory would run out again
                raise
            leave(job, stopped.signum)
        ignore_signals()
        shut_down()

    def _has_saved(self, folder: Path) -> bool:
        """Return True if this job, and not an earlier run in the folder, saved a checkpoint."""
        return any(path.stat().st_mtime > self.submitted for path in folder.glob("checkpoint*.pth"))

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return what submitit runs after a requeue. Everything is saved by then."""
        again = Trainer(self.args, restarted=True)
        again.submitted = self.submitted
        return submitit.helpers.DelayedSubmission(again)

    __submitit_checkpoint__ = checkpoint  # the name in newer versions of submitit


def ignore_signals() -> None:
    """Ignore signals until the process ends: Python removes its handlers before it exits."""
    for name in ("SIGTERM", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def leave(job: submitit.JobEnvironment, signum: int) -> None:
    """End a task that was stopped and has saved; the first task requeues the job.

    By SystemExit, after which submitit writes no result. A result would end the job.
    """
    user_signal = getattr(signal, f"SIG{job.USR_SIG}")
    requeue = signal.getsignal(user_signal)  # submitit's handler
    ignore_signals()
    if job.global_rank != 0:
        # A failure would end the job step, and with it the first task before it has requeued.
        sys.exit(0)
    if job.cluster == "slurm":
        # During the grace period a preempted job is running, a cancelled one is not.
        should_requeue = is_running(job.job_id)
    else:
        should_requeue = job.cluster == "local" and signum == user_signal
    if not should_requeue:
        print("the job ends, it is not requeued", flush=True)
        sys.exit(EXIT_STOPPED)
    # Called, because a signal could come a second time in the middle, and requeue the job twice.
    requeue(user_signal, None)


def add_job_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("job").add_argument
    add("--ngpus", default=8, type=whole_number(0),
        help="GPUs and tasks of each node; 0 for nodes without GPU")  # fmt: skip
    add("--tasks_per_node", default=None, type=whole_number(1),
        help="tasks of each node; None for one a GPU, or one without GPUs")  # fmt: skip
    add("--nodes", default=None, type=whole_number(1),
        help="nodes; None for 2, or this one with --cluster local and debug")  # fmt: skip
    add("--timeout", default=60, type=whole_number(1),
        help="minutes, after which a Slurm job saves, is requeued and continues")  # fmt: skip
    add("--cpus_per_task", default=10, type=whole_number(1), help="CPU cores (Slurm)")
    add("--mem_gb", default=None, type=number(0), help="memory of each node (Slurm)")
    add("--partition", default=None, help="Slurm partition")
    add("--qos", default=None, help="Slurm quality of service")
    add("--account", default=None, help="Slurm account")
    add("--constraint", default=None, help="features of nodes (Slurm)")
    add("--comment", default=None, help="any words, shown by Slurm")
    add("--job_dir", default="jobs/%j",
        help="logs and checkpoints, on a disk all nodes see; %%j is the job's id")  # fmt: skip
    add("--cluster", default="slurm", choices=("slurm", "local", "debug"),
        help="Slurm, processes on this machine, or this very process")  # fmt: skip
    add("--follow", action="store_true",
        help="print the first task's log until the job is over; Ctrl-C ends only this")  # fmt: skip


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
    args.nodes = args.nodes or (2 if args.cluster == "slurm" else 1)

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


def build_executor(args: argparse.Namespace) -> submitit.AutoExecutor:
    executor = submitit.AutoExecutor(
        folder=args.job_dir,
        cluster=args.cluster,
        slurm_max_num_timeout=MAX_TIMEOUTS,
        slurm_python=shlex.join(["sh", "-c", START_COMMAND, sys.executable]),
    )
    parameters = {
        "name": "detr",
        "nodes": args.nodes,
        "tasks_per_node": args.tasks_per_node or max(args.ngpus, 1),
        "cpus_per_task": args.cpus_per_task,
        "timeout_min": args.timeout,
        # Time to complete a step and save; short jobs have less.
        "slurm_signal_delay_s": min(120, args.timeout * 60 // 4),
        # The first task that fails ends all. srun does not inherit --cpus-per-task from the job.
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
    """Run main.py in this process; submitit would start a debugger when it fails or is stopped."""
    args.output_dir = args.output_dir or args.job_dir.replace("%j", "debug")
    print(f"in this process, checkpoints in {args.output_dir}", flush=True)
    detection.main(args)
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
    # Tasks import this program's modules, whatever folder it was called from.
    root, others = str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{root}:{others}" if others else root
    sbatch_errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(sbatch_errors):  # submitit would print them besides
            job = build_executor(args).submit(Trainer(args))
    except submitit.core.utils.FailedJobError as error:
        reason = " ".join(sbatch_errors.getvalue().split()) or str(error)
        raise UserError(f"Slurm refuses the job: {reason}") from error
    print(f"Submitted job {job.job_id}, logs and checkpoints in {job.paths.folder}", flush=True)

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


if __name__ == "__main__":
    run_command(submit)
