"""Train DETR with iRPE on a Slurm cluster: submits main.py, with all of its options, as a job.

example:
  python run_with_submitit.py --ngpus 8 --nodes 4 --timeout 3200 --coco_path /path/to/coco
"""

from argument_checks import check_files
from arguments import get_args_parser
from slurm.options import job_parser
from util.cli import OneLineParser, answer_first, run_command


def command_parser() -> OneLineParser:
    parser = job_parser(__doc__, get_args_parser())
    parser.file_checks.append(check_files)
    return parser


if __name__ == "__main__":
    answer_first(command_parser)

import main as detection
from slurm.submit import Task, submit_job


def submit() -> None:
    """Read the command line, and submit the job that it describes."""
    submit_job(
        Task(
            name="detr",
            program=detection.__name__,
            parser=command_parser(),
            check=detection.check_args,
        )
    )


if __name__ == "__main__":
    run_command(submit)
