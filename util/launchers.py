"""What launchers tell the processes they start, in the words of torchrun."""

import os
import subprocess

import torch

from util.errors import UserError

FIRST_PORT, PORTS = 20000, 12000  # below the ports that systems give away


def adopt_srun() -> None:
    """Let the tasks of a plain `srun python main.py` be the processes of one run.

    Sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT as torchrun would, unless a
    launcher has set RANK, or srun started one task alone. (A batch script is no task of srun's.)

    Raises:
        UserError: Slurm does not tell where its tasks are.
    """
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if "RANK" in os.environ or "SLURM_PROCID" not in os.environ or tasks == 1:
        return
    nodes = os.environ.get("SLURM_STEP_NODELIST", "")
    try:
        listed = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"Slurm started {tasks} tasks on {nodes or 'unknown nodes'}, but scontrol does not "
            "name their hosts; set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT"
        ) from error
    # Jobs that share a node need ports of their own; all tasks of a step must find the same.
    step = int(os.environ["SLURM_JOB_ID"]) * 31 + int(os.environ["SLURM_STEP_ID"])
    # With --gpus-per-task each task sees its own GPU alone, as number 0.
    own_gpu = torch.cuda.device_count() == 1
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = str(tasks)
    os.environ["LOCAL_RANK"] = "0" if own_gpu else os.environ["SLURM_LOCALID"]
    os.environ.setdefault("MASTER_ADDR", listed.stdout.split()[0])
    os.environ.setdefault("MASTER_PORT", str(FIRST_PORT + step % PORTS))
