"""What a job does: it runs a program in each of its tasks, and is requeued when it is stopped."""

import argparse
import importlib
import os
import signal
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import submitit

from slurm.status import is_running
from util.signals import EXIT_STOPPED, Stopped

ROOT = str(Path(__file__).resolve().parent.parent)
START_MARK = "-- start of the tasks"


class Trainer:
    """Runs a program in each task of a job; submitit pickles it.

    Args:
        program: Name of the program's module, whose `main` is called with the options.
        args: Options of the program.
        restarted: True in a job that was requeued.
    """

    def __init__(self, program: str, args: argparse.Namespace, restarted: bool = False):
        self.program = program
        self.args = args
        self.restarted = restarted
        self.submitted = time.time()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Imported now, because a task is deaf to signals until submitit has loaded this.
        vars(self).update(state)
        import_program(self.program)

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
        from util.distributed import shut_down  # not above, it imports PyTorch

        try:
            import_program(self.program).main(args)
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
        again = Trainer(self.program, self.args, restarted=True)
        again.submitted = self.submitted
        return submitit.helpers.DelayedSubmission(again)

    __submitit_checkpoint__ = checkpoint  # the name in newer versions of submitit


def import_program(name: str) -> ModuleType:
    """Import a module of this project, whose `main` does a run."""
    # The folder of the call comes first in a task's path; classification/ has a main.py, too.
    if sys.path[0] != ROOT:
        sys.path.insert(0, ROOT)
    return importlib.import_module(name)


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
