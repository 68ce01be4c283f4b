"""The checkpoint of a tool: its first argument or --resume, a file or a run's folder."""

import importlib.util
import re

import pytest

from tests.helpers.commands import ROOT

FOLDERS = ["tools", *["classification/tools"] * (importlib.util.find_spec("timm") is not None)]
# Parsers of those that read checkpoints, by name.
TOOLS = {
    name: importlib.import_module(name).get_args_parser
    for folder in FOLDERS
    for path in sorted((ROOT / folder).glob("*.py"))
    if re.search(r"load_(checkpoint|detector|classifier)\(", path.read_text())
    for name in [".".join(path.relative_to(ROOT).with_suffix("").parts)]
}
# What follows the checkpoint, as given and as parsed.
REST = {
    "tools.predict": ["a.jpg", "b.jpg"], "classification.tools.predict": ["a.jpg", "b.jpg"],
    "tools.convert": ["out.pth"], "classification.tools.error_page": ["images"],
    "tools.show_rpe": ["a.jpg"], "classification.tools.show_rpe": ["a.jpg"],
}  # fmt: skip


def test_all_tools_with_checkpoints_are_here():
    others = {"cost", "show_run", "error_report", "predict", "show_rpe", "convert", "export_onnx"}
    assert {f"tools.{name}" for name in others} == {n for n in TOOLS if n.startswith("tools.")}


@pytest.fixture
def parse(capsys):
    """parse(tool, *words): the options, or the one line that refuses them."""

    def answer(tool: str, *words: object):
        try:
            return vars(TOOLS[tool]().parse_args(list(map(str, words))))
        except SystemExit:
            (line,) = capsys.readouterr().err.splitlines()
            return line

    return answer


@pytest.mark.parametrize("tool", TOOLS)
def test_every_spelling_is_the_same(tool, parse, tmp_path):
    rest, file = REST.get(tool, []), tmp_path / "checkpoint.pth"
    file.touch()
    expected = parse(tool, file, *rest)
    assert expected["checkpoint"] == expected["resume"] == str(file)
    assert parse(tool, tmp_path, *rest) == expected
    assert parse(tool, "--resume", file, *rest) == expected
    assert parse(tool, *rest, "--resume", tmp_path) == expected
    assert parse(tool, *rest[:1], "--resume", file, *rest[1:]) == expected
    if tool != "tools.show_run":
        given = parse(tool, file, "--trust_checkpoint", *rest)
        assert given == {**expected, "trust_checkpoint": True}
    url = "https://example.org/c.pth"
    if tool == "tools.show_run":  # which reads the log, too
        assert parse(tool, url).startswith(f"show_run.py: error: {url}: the log beside")
    else:
        assert parse(tool, url, *rest)["checkpoint"] == url


@pytest.mark.parametrize("tool", TOOLS)
def test_none_two_and_an_empty_folder_are_refused(tool, parse, tmp_path):
    rest = REST.get(tool, [])
    assert "c.pth and --resume d.pth: give one" in parse(tool, "c.pth", *rest, "--resume", "d.pth")
    (tmp_path / "new").mkdir()
    if tool != "tools.convert":  # to which this may be a folder of Hugging Face
        assert "new: this folder has no checkpoint.pth" in parse(tool, tmp_path / "new", *rest)
    if tool != "tools.cost":
        said = parse(tool)
        if "are required" in said:
            said = parse(tool, *rest[:1])
        assert "the checkpoint is missing" in said
    if tool == "tools.predict":
        assert "name images or videos, or a --camera" in parse(tool, "photo.jpg")
