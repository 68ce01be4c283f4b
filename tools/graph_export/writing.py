"""Write a model's graph to a file, which is kept only if it computes what PyTorch computes."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from util.errors import UserError
from util.files import check_no_overwrite, check_output_file, staging_folder

from .files import (
    Run,
    check_onnx_packages,
    load_onnx,
    load_torch,
    quiet,
    save_onnx,
    save_torch,
)
from .options import SUFFIXES


class Graph(NamedTuple):
    """What is written.

    Attributes:
        export: returns the graph.
        outputs: names of its outputs.
        shapes: dynamic axes of its inputs, by their names.
        metadata: what a runtime must know besides, as values for JSON.
    """

    export: Callable[[], ExportedProgram]
    outputs: list[str]
    shapes: dict[str, dict[int, Dim]]
    metadata: dict


def check_graph_options(args: argparse.Namespace) -> None:
    """Set the default of args.output; raise a UserError before anything takes long."""
    suffix = SUFFIXES[args.format]
    args.output = args.output or Path("model").with_suffix(suffix)
    if args.output.suffix != suffix:
        raise UserError(f"--output {args.output}: files of --format {args.format} end in {suffix}")
    check_output_file(args.output, args.force, "--output")
    if args.format == "onnx":
        check_onnx_packages()
    elif args.opset is not None:
        raise UserError("--opset is an option of ONNX: --format torch has none")


@torch.no_grad()
def export_program(
    module: nn.Module, examples: dict[str, Tensor], shapes: dict[str, dict[int, Dim]]
) -> ExportedProgram:
    """Return the graph of a module on the CPU.

    Args:
        examples: inputs by name; of dynamic axes not 1, which torch.export takes for a constant,
            and no two the same, which it takes for the same size.
        shapes: dynamic axes of the inputs.
    """
    try:
        return export(module, (), examples, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # PyTorch's class has no public name
        if not str(error).startswith("Constraints violated"):
            raise
    # PyTorch 2.6 and 2.7 derive conditions on sizes, such as those of strided convolutions, that no
    # range meets. If they may choose the ranges themselves, they export the same graph.
    shapes = {name: dict.fromkeys(axes, Dim.DYNAMIC) for name, axes in shapes.items()}
    return export(module, (), examples, dynamic_shapes=shapes, strict=False)


def write_verified(
    graph: Graph, compare: Callable[[Run], None], args: argparse.Namespace, source: str
) -> None:
    """Write a graph to args.output if it passes a comparison; print what was written.

    Args:
        compare: is given a function that runs the file, and raises a UserError if its outputs are
            not PyTorch's.
        args: as of `add_graph_options`.
        source: the checkpoint, for messages.

    Raises:
        UserError: this version of PyTorch cannot export it, or not to this opset; the graph is
            wrong; the file cannot be written.
    """
    try:
        with staging_folder(args.output.parent) as folder:
            path = folder / args.output.name
            _write(graph, path, args, source)
            for file in folder.iterdir():  # large weights are in a file of their own
                check_no_overwrite(args.output.parent / file.name, args.force, "--output")
            compare(load_torch(path) if args.format == "torch" else load_onnx(path))
    except OSError as error:
        raise UserError(f"--output {args.output}: {error.strerror or error}") from error
    megabytes = args.output.stat().st_size / 2**20
    print(f"{args.output}: {megabytes:.1f} MiB, {args.format}, inputs {', '.join(graph.shapes)}")


def _write(graph: Graph, path: Path, args: argparse.Namespace, source: str) -> None:
    try:
        with quiet():
            program = graph.export()
            if args.format == "torch":
                save_torch(program, path, graph.metadata)
            else:
                save_onnx(program, path, graph.outputs, graph.metadata, graph.shapes, args.opset)
    except (UserError, OSError):
        raise
    except Exception as error:  # exporters raise errors of many types
        cause = next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)
        raise UserError(
            f"{source}: PyTorch {torch.__version__} cannot export it ({cause})"
        ) from error


def report_differences(rows: Sequence[tuple[str, ...]], problems: Sequence[str]) -> None:
    """Print by how much outputs differ from PyTorch's.

    Args:
        rows: a head, and then the largest differences at each size of the inputs.
        problems: sentences that say what differs by too much.

    Raises:
        UserError: there is a problem.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print("largest differences from PyTorch")
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    if problems:
        raise UserError(f"nothing is written, the exported graph is wrong: {problems[0]}")
