"""Evaluate a finished run by its own command, and keep the numbers; compare.py starts this.

evaluate_run.py COMMAND RUN FILE OPTION ...: COMMAND as in study files, RUN the folder of the run,
FILE what is written. Of the OPTIONs the image size and those of the machine count; all others are
those of the run, also where --finetune had chosen them.
"""

import importlib
import json
import sys
from pathlib import Path

# In place of this folder, whose files have names that libraries could have, too.
sys.path[0] = str(Path(__file__).resolve().parents[2])

from tools.comparison.commands import COMMANDS
from training.log import LOG, read_log
from training.output_dir import LAST
from training.start.record import NOT_COMPARED
from util.checkpoint import load_checkpoint
from util.cli import run_command
from util.distributed import shut_down
from util.files import atomic_write


def main() -> None:
    name, run, path, *options = sys.argv[1:]
    command = COMMANDS[name]
    module = importlib.import_module(command.program)
    args = command.parse(options, name)
    kept = NOT_COMPARED | {command.size_name, "eval", "finetune"}
    checkpoint = str(Path(run) / LAST)
    saved = command.checked_args(load_checkpoint(checkpoint)["args"], checkpoint)
    for option in vars(args).keys() - kept:
        setattr(args, option, getattr(saved, option, getattr(args, option)))
    row = read_log(Path(run) / LOG)[0][-1]
    numbers: dict = {}

    class RecordedRun(module.Run):
        def evaluate(self, *given, **named):
            stats = super().evaluate(*given, **named)
            numbers.update({f"test_{name}": value for name, value in stats.items()})
            return stats

    module.Run = RecordedRun
    module.main(args)
    content = {"of": row, "numbers": {"epoch": row["epoch"], **numbers}}
    with atomic_write(Path(path)) as file:
        file.write(json.dumps(content, indent=1).encode())
    shut_down()


if __name__ == "__main__":
    run_command(main)
