"""Train DeiT with iRPE on a Slurm cluster: submits classification/main.py, with all its options.

example:
  python classification/run_with_submitit.py --ngpus 8 --nodes 2 --data-path /path/to/images \\
      --model deit_tiny_patch16_224_ctx_product_50_shared_k
"""

import importlib
import sys
from pathlib import Path

# Run as a file, from any folder: modules are found from the project's root.
if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from classifier_arguments import check_files, get_args_parser
from slurm.options import job_parser
from util.cli import OneLineParser, answer_first, run_command


def command_parser() -> OneLineParser:
    parser = job_parser(__doc__, get_args_parser(), timeout=2800)
    parser.add_argument(
        "--use_volta32", dest="constraint", action="store_const", const="volta32gb",
        help="published name of --constraint volta32gb: GPUs of 32 GB",
    )  # fmt: skip
    parser.file_checks.append(check_files)
    return parser


if __name__ == "__main__":  # a missing timm is an error of one line
    answer_first(command_parser, lambda: importlib.import_module("classification"))

from classification import run
from slurm.submit import Task, submit_job


def submit() -> None:
    """Read the command line, and submit the job that it describes."""
    submit_job(
        Task(
            name="deit",
            program=run.__name__,
            parser=command_parser(),
            check=run.check_args,
        )
    )


if __name__ == "__main__":
    run_command(submit)
