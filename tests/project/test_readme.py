"""The README's tour, as a new user would type it, from the demo's checkpoint on."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT
from tests.project.markdown import code_blocks, command_lines

MARK = "<!-- tests/project/test_readme.py runs these -->"
CHECKPOINT = ROOT / "output" / "demo" / "checkpoint.pth"
MOST_LINES = 60  # that a command of the tour may print: what a user can still look over

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not CHECKPOINT.exists(), reason="make demo makes the model to start from"),
]


def tour() -> list[str]:
    """Return the commands of the block below the mark, each on one line."""
    text = (ROOT / "README.md").read_text().partition(MARK)[2]
    return command_lines(code_blocks(text, "bash")[0])


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The project as `make demo` leaves it: git's files, compiled operators, run, environment."""
    out = tmp_path_factory.mktemp("clone")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    operators = [f"rpe_ops/{path.name}" for path in (ROOT / "rpe_ops").glob("_C*.so")]
    for name in files.stdout.decode().split("\0")[:-1] + operators:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, out / name)
    shutil.copytree(ROOT / "output" / "demo", out / "output" / "demo")
    (out / "data").mkdir()
    (out / "data" / "shapes").symlink_to(ROOT / "data" / "shapes")
    (out / ".venv" / "bin").mkdir(parents=True)
    (out / ".venv" / "bin" / "activate").write_text(
        f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH\n"
    )
    return out


def bash(command: str, cwd: Path) -> str:
    """Run a command that must succeed; returns all that it prints, errors included."""
    result = subprocess.run(
        ["bash", "-ec", command], cwd=cwd, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    return result.stdout


def last_ap(run: Path) -> float:
    return json.loads((run / "log.txt").read_text().splitlines()[-1])["test_coco_eval_bbox"][0]


def demo_model() -> str:
    """The options of the demo's model, which --finetune takes from its checkpoint."""
    makefile = (ROOT / "Makefile").read_text()
    return re.search(r"^DEMO_MODEL := ((?:.*\\\n)*.*)", makefile, re.M)[1].replace("\\\n", " ")


def test_from_the_demo_to_own_data(clone):
    activate, *commands = tour()
    for command in commands:
        said = bash(f"{activate}\n{command}", clone)
        assert 0 < said.count("\n") < MOST_LINES, f"{command}\n{said}"
        assert "warn" not in said.lower(), f"{command}\n{said}"
    drawn = list((clone / "output" / "predictions").glob("*.jpg"))
    assert len(drawn) == len(list((clone / "data" / "shapes" / "val2017").iterdir()))
    assert '"moon"' in (clone / "output" / "errors.html").read_text()
    for page in ("errors", "comparison"):
        assert (clone / "output" / f"{page}.html").stat().st_size > 20_000

    (train,) = (command for command in commands if "--finetune" in command)
    same = "--lr 1e-3 --lr_backbone 1e-3 --epochs 20 --lr_drop 15 --warmup 100"
    without = re.sub(r"--finetune \S+", f"{demo_model()} {same}", train)
    without = without.replace("finetuned", "scratch")
    bash(f"{activate}\n{without}", clone)
    tuned, scratch = (last_ap(clone / "output" / name) for name in ("finetuned", "scratch"))
    print(f"AP fine-tuned {tuned:.3f}, from scratch {scratch:.3f}")
    assert tuned > max(0.4, scratch + 0.1)
