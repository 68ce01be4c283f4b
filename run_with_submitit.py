"""Train DETR with iRPE on a Slurm cluster: submits main.py, with all of its options, as a job.

example:
  python run_with_submitit.py --ngpus 8 --nodes 4 --timeout 3200 --coco_path /path/to/coco
"""

import argparse
import shutil
from pathlib import Path

import submitit

import main as detection
from util.command_line import OneLineParser, run_command, whole_number
from util.errors import UserError


class Trainer:
    """What each task of the job runs."""

    def __init__(self, args: argparse.Namespace):
        self.args = args

    def __call__(self) -> None:
        # MASTER_ADDR, RANK, WORLD_SIZE, LOCAL_RANK, as torchrun would set them.
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        if not self.args.output_dir:
            self.args.output_dir = submitit.JobEnvironment().paths.folder
        detection.main(self.args)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Called when the job is preempted or out of time: queue it again, to go on."""
        last = Path(self.args.output_dir) / "checkpoint.pth"
        if last.is_file():
            self.args.resume = str(last)
        return submitit.helpers.DelayedSubmission(Trainer(self.args))


def submit() -> None:
    parser = OneLineParser(
        description=__doc__.splitlines()[0], parents=[detection.get_args_parser()]
    )
    group = parser.add_argument_group("job")
    group.add_argument(
        "--ngpus",
        default=8,
        type=whole_number(0),
        help="GPUs and tasks of each node; 0 for nodes without GPU",
    )
    group.add_argument(
        "--tasks_per_node",
        default=None,
        type=whole_number(1),
        help="tasks of each node; None for one a GPU, or one without GPUs",
    )
    group.add_argument("--nodes", default=2, type=whole_number(1), help="nodes")
    group.add_argument("--timeout", default=60, type=whole_number(1), help="minutes")
    group.add_argument("--partition", default=None, help="Slurm partition")
    group.add_argument("--cpus_per_task", default=10, type=whole_number(1), help="CPU cores")
    group.add_argument(
        "--job_dir",
        default="jobs/%j",
        help="logs and checkpoints, on a disk all nodes see; %%j is the job's id",
    )
    group.add_argument(
        "--cluster",
        default="slurm",
        choices=("slurm", "local", "debug"),
        help="Slurm, processes on this machine, or this very process",
    )
    args = parser.parse_args()
    detection.check_args(args)
    if args.cluster == "slurm" and shutil.which("srun") is None:
        raise UserError("--cluster slurm: there is no srun here; submit from a node of the cluster")

    args.job_dir = str(Path(args.job_dir).absolute())
    executor = submitit.AutoExecutor(folder=args.job_dir, cluster=args.cluster)
    tasks = args.tasks_per_node or max(args.ngpus, 1)
    parameters = {
        "name": "detr",
        "nodes": args.nodes,
        "tasks_per_node": tasks,
        "gpus_per_node": args.ngpus,
        "cpus_per_task": args.cpus_per_task,
        "timeout_min": args.timeout,
    }
    if args.cluster == "slurm" and args.partition:
        parameters["slurm_partition"] = args.partition
    executor.update_parameters(**parameters)
    job = executor.submit(Trainer(args))
    print(f"Submitted job {job.job_id}, logs and checkpoints in {job.paths.folder}")
    if args.cluster != "slurm":
        try:
            job.results()
        except submitit.core.utils.FailedJobError as error:
            raise UserError(f"job {job.job_id} failed, its log: {job.paths.stderr}") from error


if __name__ == "__main__":
    run_command(submit)
