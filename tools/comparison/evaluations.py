"""Evaluations of finished runs at other image sizes: how they are started, and their numbers."""

import json
import sys
from pathlib import Path
from typing import Any

from tools.comparison.commands import ROOT
from tools.comparison.study import Study
from training.log import LogFormat, check_row, flat
from training.output_dir import LAST
from util.errors import UserError
from util.files import read_text
from util.schema import InvalidValue

PROGRAM = ROOT / "tools" / "comparison" / "evaluate_run.py"
NUMBERS = "numbers.json"


def evaluation_folder(run: Path, size: int) -> Path:
    """Return where the evaluation of a run at a size writes to."""
    return run / "evaluated" / f"size_{size}"


def evaluation_command(
    study: Study, configuration: str, seed: int, run: Path, size: int
) -> list[str]:
    """Return the command line that evaluates a finished run."""
    folder = evaluation_folder(run, size)
    return [
        sys.executable, str(PROGRAM), study.command.name, str(run), str(folder / NUMBERS),
        *study.run_options(configuration, seed), study.command.size_option, str(size),
        "--eval", "--finetune", "", "--resume", str(run / LAST), "--output_dir", str(folder),
    ]  # fmt: skip


def read_evaluation(
    run: Path, size: int, last_row: dict[str, Any], log_format: LogFormat
) -> dict[str, float] | None:
    """Read the numbers of an evaluation; None if there is none of this very run.

    Args:
        last_row: of the run's log, by which its training is known.

    Raises:
        UserError: the file cannot be read.
    """
    path = evaluation_folder(run, size) / NUMBERS
    try:
        content = json.loads(read_text(path))
        # As texts, in which NaN is equal to itself.
        if json.dumps(content["of"], sort_keys=True) != json.dumps(last_row, sort_keys=True):
            return None
        check_row(content["numbers"], path.name, log_format)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = str(error) if isinstance(error, InvalidValue) else "not one that was written here"
        raise UserError(f"{path}: is damaged ({reason}); remove it") from error
    return flat(content["numbers"], log_format)
