"""Train DETR with iRPE on a Slurm cluster: submits main.py, with all of its options, as a job.

example:
  python run_with_submitit.py --ngpus 8 --nodes 4 --timeout 3200 --coco_path /path/to/coco
"""

import main as detection
from slurm.submit import Task, submit_job
from util.cli import run_command


def submit() -> None:
    """Read the command line, and submit the job that it describes."""
    submit_job(
        Task(
            name="detr",
            program=detection.__name__,
            description=__doc__.splitlines()[0],
            parser=detection.get_args_parser(),
            check=detection.check_args,
        )
    )


if __name__ == "__main__":
    run_command(submit)
