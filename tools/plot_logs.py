"""Compare runs: curves of losses, scores, learning rate and speed, and tables of best numbers.

Reads log.txt (and speed.csv, args.json) of --output_dir folders, of runs that are finished or
running. A page (.html) needs no network: pointing at a curve shows its values, a click on a run
hides or shows it, curves can be smoothed, and a table has the options that differ. Pictures (.png,
.svg, .pdf) have the same charts.

examples:
  python tools/plot_logs.py output/baseline output/irpe
  python tools/plot_logs.py output --output comparison.png
  python tools/plot_logs.py output/study --mean
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.run_curves import FORMATS
from util.cli import OneLineParser, answer_first, run_command
from util.files import check_exists


def get_args_parser() -> OneLineParser:
    parser = OneLineParser(prog="plot_logs.py", description=__doc__)
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="DIR",
        help="a run's --output_dir, or a folder of runs")  # fmt: skip
    add("--output", type=Path, default=Path("comparison.html"), metavar="FILE",
        help=f"what to write: a page (.html) or a picture (.{', .'.join(FORMATS)})")  # fmt: skip
    add("--mean", action="store_true",
        help="runs that differ in --seed alone are one curve, their mean, in a band from the "
        "lowest to the highest")  # fmt: skip
    add("--force", action="store_true", help="overwrite an existing file")
    parser.file_checks.append(lambda args: check_exists(*args.runs))
    return parser


if __name__ == "__main__":
    answer_first(get_args_parser)

from tools.run_curves.options import mean_over_seeds
from tools.run_curves.page import write_page
from tools.run_curves.picture import draw_curves
from tools.run_curves.runs import read_runs
from util.errors import UserError
from util.files import check_output_file


def main() -> None:
    args = get_args_parser().parse_args()
    kind = args.output.suffix.lower().removeprefix(".")
    if kind not in ("html", *FORMATS):
        raise UserError(f"--output {args.output}: must end with .html, .{', .'.join(FORMATS)}")
    check_output_file(args.output, args.force, "--output")
    runs, notes = read_runs(args.runs)
    for note in notes:
        print(note)
    shown = mean_over_seeds(runs) if args.mean else runs
    if args.mean and len(shown) == len(runs):
        print("--mean: no two of the runs differ in --seed alone, by their args.json")
    if kind == "html":
        write_page(shown, args.output)
    else:
        draw_curves(shown, args.output)
    print(f"{len(runs)} run(s), {sum(len(run.epochs) for run in runs)} epochs: {args.output}")


if __name__ == "__main__":
    run_command(main)
