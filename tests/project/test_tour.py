"""The notebook docs/tour.ipynb: its cells run in order, and show what they say."""

import ast
import json
import re
import sys
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from detector import Detector
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.commands import ROOT

NOTEBOOK = ROOT / "docs" / "tour.ipynb"
DEMO, SHAPES = ROOT / "output" / "demo" / "checkpoint.pth", ROOT / "data" / "shapes" / "val2017"
MOST_BYTES = 200_000  # pictures included


def cells(kind: str = "code") -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == kind]


def run_cells() -> tuple[dict[str, Any], list[Any]]:
    """Run the code as Jupyter does; returns the names, and what cells end with, if they do."""
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for number, cell in enumerate(cells(), start=1):
        source, place = "".join(cell["source"]), f"{NOTEBOOK.name}, code cell {number}"
        body = ast.parse(source, place).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), place, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), place, "eval"), names)
            shown += [] if value is None else [value]
    return names, shown


def test_the_file_is_what_jupyter_writes():
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert NOTEBOOK.stat().st_size < MOST_BYTES
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) > 10
    for number, cell in enumerate(cells(), start=1):
        assert cell["execution_count"] == number, "not run from top to bottom"
        kinds = {output["output_type"] for output in cell["outputs"]}
        assert kinds <= {"stream", "execute_result"}, "shows an error"
    text = NOTEBOOK.read_text()
    assert text.count('"image/png"') == 3
    shown = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.search(r"(?<![\w:/.)\]-])/\w+/", shown), "names a path of a machine"
    assert f"{ROOT.parent}/" not in text and "/home/" not in text


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["a tiny one", "the demo's"])
def test_all_cells_run(whose, args, shapes, tmp_path, monkeypatch, capsys):
    if whose == "a tiny one":
        checkpoint, images = tmp_path / "tiny.pth", shapes / "val2017"
        write_checkpoint(checkpoint, args, "--num_classes", "6")
        monkeypatch.setenv("TOUR_CHECKPOINT", str(checkpoint))
        monkeypatch.setenv("TOUR_IMAGES", str(images))
    elif not DEMO.exists() or not SHAPES.exists():
        pytest.skip("make demo makes the model and the images")
    else:
        for name in ("TOUR_CHECKPOINT", "TOUR_IMAGES"):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(NOTEBOOK.parent)  # where Jupyter runs it
    monkeypatch.setattr(sys, "path", list(sys.path))
    with torch.random.fork_rng(devices=[]):
        names, (detector, picture, attention, bias) = run_cells()
    assert not plt.get_fignums()
    assert isinstance(detector, Detector) and isinstance(picture, Image.Image)
    assert isinstance(attention, Figure) and isinstance(bias, Figure)
    printed = capsys.readouterr().out
    if whose == "the demo's":
        assert "triangle" in printed and len(names["found"]["names"]) > 1
        assert names["moved"].max() > 0.1
    layers, heads = detector.args.enc_layers, detector.args.nheads
    assert names["moved"].shape == (layers, heads) and (names["moved"] > 0).all()
    assert f"layer {layers - 1}:" in printed
    # Alone it learns nothing; with the encoding the error is gone, and the left neighbour found.
    assert names["without"] > 0.9 and names["loss"] < 0.1
    assert divmod(names["bias"].argmax().item(), 8) == (4, 3)
    assert "error without the encoding" in printed
