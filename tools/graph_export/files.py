"""Write and run files of exported graphs: ONNX and PyTorch's own format."""

import contextlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from util.errors import UserError

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
METADATA_FILE = "metadata.json"  # in a .pt2 file

Run = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def check_onnx_packages() -> None:
    """Raise a UserError unless all packages that write and run ONNX are installed."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"ONNX needs {', '.join(missing)}: pip install {' '.join(missing)} "
            "(or --format torch, which needs PyTorch alone)"
        )
    if torch.__version__ < (2, 7):
        raise UserError(
            f"ONNX needs PyTorch 2.7 or later, this is {torch.__version__}: update it "
            "(or --format torch)"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the warnings of PyTorch's exporters, about which a user can do nothing."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


# ---- ONNX ----


def save_onnx(
    program: ExportedProgram,
    path: Path,
    outputs: list[str],
    metadata: dict,
    dynamic_shapes: dict,
    opset: int | None = None,
) -> None:
    """Write `program` as ONNX; weights of more than 1.5 GB go to a second file, `path`.data.

    Args:
        outputs: names of the outputs.
        metadata: written to metadata_props, each value as JSON.
        opset: version of ONNX's operators; None for the exporter's choice.

    Raises:
        UserError: the exporter cannot write this opset.
    """
    written = torch.onnx.export(
        program, dynamo=True, verbose=False, output_names=outputs, opset_version=opset,
        dynamic_shapes=dynamic_shapes,
    )  # fmt: skip
    version = written.model.opset_imports[""]
    if opset not in (None, version):
        raise UserError(f"--opset {opset}: PyTorch's exporter wrote opset {version}; choose that")
    values = {name: json.dumps(value) for name, value in metadata.items()}
    written.model.metadata_props.update(values)
    written.save(path)


def load_onnx(path: Path) -> Run:
    """Return a function that runs an ONNX file on the CPU: tensors by name in and out."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        found = session.run(names, {name: value.numpy() for name, value in inputs.items()})
        return dict(zip(names, map(torch.from_numpy, found), strict=True))

    return run


# ---- PyTorch's format ----


def save_torch(program: ExportedProgram, path: Path, metadata: dict) -> None:
    """Write `program` for torch.export.load; the metadata are among its extra_files."""
    torch.export.save(program, path, extra_files={METADATA_FILE: json.dumps(metadata)})


def load_torch(path: Path) -> Run:
    """Return a function that runs such a file: tensors by name in and out."""
    module = torch.export.load(path).module()

    @torch.no_grad()
    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return module(**inputs)

    return run
