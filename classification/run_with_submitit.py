"""Train DeiT with iRPE on a Slurm cluster: submits classification/main.py, with all its options.

example:
  python classification/run_with_submitit.py --ngpus 8 --nodes 2 --data-path /path/to/images \\
      --model deit_tiny_patch16_224_ctx_product_50_shared_k
"""

import sys
from pathlib import Path

# Run as a file, from any folder: modules are found from the project's root.
if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from slurm.submit import Task, submit_job
from util.cli import run_command


def submit() -> None:
    """Read the command line, and submit the job that it describes."""
    from classification import run  # in here, where a missing timm is an error of one line

    parser = run.get_args_parser()
    parser.add_argument(
        "--use_volta32", dest="constraint", action="store_const", const="volta32gb",
        help="published name of --constraint volta32gb: GPUs of 32 GB",
    )  # fmt: skip
    submit_job(
        Task(
            name="deit",
            program=run.__name__,
            description=__doc__.splitlines()[0],
            parser=parser,
            check=run.check_args,
            timeout=2800,
        )
    )


if __name__ == "__main__":
    run_command(submit)
