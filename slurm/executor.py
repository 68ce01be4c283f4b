"""How a job is started: the parameters of submitit, and the command of each task."""

import argparse
import shlex
import sys

import submitit

from slurm.options import tasks_per_node

# How often a job may reach its time limit: training may take weeks.
MAX_TIMEOUTS = 1000
# Until Python has installed its handlers, a preemption's signals would end the tasks, which Slurm
# takes for a crash. The program's handlers replace this.
START_COMMAND = 'trap "" TERM USR2; exec "$0" "$@"'


def build_executor(args: argparse.Namespace, name: str) -> submitit.AutoExecutor:
    """Return what submits a job.

    Args:
        args: checked options of the job.
        name: of the job, which Slurm shows.
    """
    executor = submitit.AutoExecutor(
        folder=args.job_dir,
        cluster=args.cluster,
        slurm_max_num_timeout=MAX_TIMEOUTS,
        slurm_python=shlex.join(["sh", "-c", START_COMMAND, sys.executable]),
    )
    parameters = {
        "name": name,
        "nodes": args.nodes,
        "tasks_per_node": tasks_per_node(args),
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
