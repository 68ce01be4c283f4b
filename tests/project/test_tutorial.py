"""The programs of rpe_ops/README.md, in an empty project that has copies or installed the wheel."""

import os
import shutil
import site
import subprocess
import venv
from pathlib import Path

import pytest

from rpe_ops.attention.fused import NO_TRITON
from tests.helpers.commands import ROOT, run_ok
from tests.project.markdown import code_blocks

PAGE = (ROOT / "rpe_ops" / "README.md").read_text()
TRAIN = """
torch.manual_seed(0)
slow, fast = Attention(32, 4), FastAttention(32, 4)
fast.load_state_dict(slow.state_dict())
tokens = torch.randn(2, 1 + 7 * 7, 32)
before = slow(tokens)
for block in (slow, fast):
    nn.init.ones_(block.rpe_k.lookup_table_weight[..., ::3].data)
assert not torch.allclose(slow(tokens), before), "the encoding has no effect"
torch.testing.assert_close(fast(tokens), slow(tokens), atol=1e-5, rtol=1e-4)
torch.testing.assert_close(fast(tokens[:, :29], hw=(4, 7)).shape, torch.Size([2, 29, 32]))
assert out.shape == (2, 4, 120, 16) and term.shape == (2, 4, 68, 68)

# Sixteen images to be told apart.
images, labels = torch.randn(16, 50, 32), torch.arange(16) % 2
first, second, head = FastAttention(32, 4), FastAttention(32, 4), nn.Linear(32, 2)
model = nn.ModuleList([first, second, head])
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
losses = []
for step in range(60):
    x = images + first(images)
    loss = nn.functional.cross_entropy(head((x + second(x))[:, 0]), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
assert first.rpe_k.lookup_table_weight.ne(0).any()
assert losses[-1] < losses[0] / 2, (losses[0], losses[-1])
print("trained", losses[0], losses[-1])
"""


def write_program(folder: Path) -> Path:
    blocks = code_blocks(PAGE, "python")
    assert len(blocks) == 5
    program = folder / "train.py"
    program.write_text("\n".join([*blocks, TRAIN]))
    return program


@pytest.mark.parametrize("irpe", ["rpe_ops/irpe.py", "models/rpe_attention/irpe.py"])
def test_copies_of_irpe_and_the_folder(tmp_path, irpe):
    shutil.copy(ROOT / irpe, tmp_path)
    shutil.copytree(ROOT / "rpe_ops", tmp_path / "rpe_ops")
    result = run_ok(write_program(tmp_path), cwd=tmp_path, env={"PYTHONPATH": ""})
    assert "trained" in result.stdout


def test_an_installation_has_every_module(tmp_path):
    source = tmp_path / "rpe_ops"
    shutil.copytree(ROOT / "rpe_ops", source, ignore=shutil.ignore_patterns("_C*", "build"))
    wanted = {str(path.relative_to(tmp_path)) for path in source.rglob("*.py")} - {
        "rpe_ops/setup.py", "rpe_ops/top_level/irpe.py",
    }  # fmt: skip
    assert "rpe_ops/attention/kernels/forward.py" in wanted
    run_ok("setup.py", "build_py", "--build-lib", tmp_path / "lib", cwd=source)
    found = {str(path.relative_to(tmp_path / "lib")) for path in (tmp_path / "lib").rglob("*.py")}
    assert found == wanted | {"irpe.py"}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler")
def test_a_wheel_in_an_empty_environment(tmp_path):
    """Which has PyTorch, and what that needs, alone."""
    source = tmp_path / "rpe_ops"
    shutil.copytree(
        ROOT / "rpe_ops", source, ignore=shutil.ignore_patterns("_C*", "build", "*.egg*")
    )
    python = empty_environment(tmp_path / "environment")
    env = {**os.environ, "RPE_OPS_CUDA": "0", "PYTHONPATH": ""}

    def run(*command: object) -> str:
        done = subprocess.run(
            [python, *map(str, command)], cwd=tmp_path / "work", env=env, capture_output=True,
            text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (tmp_path / "work").mkdir()
    run("-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path / "wheels", source)
    (wheel,) = (tmp_path / "wheels").iterdir()
    version = wheel.name.split("-")[1]
    assert "+cpu.torch2." in version and wheel.name.startswith("rpe_ops-")
    run("-m", "pip", "install", "--no-deps", wheel)
    shutil.rmtree(source)
    program = write_program(tmp_path / "work")
    assert "trained" in run(program)
    said = run("-m", "rpe_ops")
    assert "CPU      compiled kernels" in said and str(tmp_path / "environment") in said
    assert (
        run("-c", "from rpe_ops.attention import fused; print(fused.NO_TRITON)") == f"{NO_TRITON}\n"
    )
    told = run(
        "-c",
        "import importlib.metadata as m, importlib.resources as r, irpe, rpe_ops.irpe\n"
        "assert irpe.build_rpe is rpe_ops.irpe.build_rpe\n"
        "assert (r.files('rpe_ops') / 'py.typed').is_file()\n"
        "about = m.metadata('rpe_ops')\n"
        "print(about['Version'], about['License-Expression'] or about['License'])\n",
    )
    assert told.split() == [version, "Apache-2.0"]


def empty_environment(folder: Path) -> Path:
    """A new virtual environment with PyTorch and what it imports; returns its python."""
    venv.create(folder, with_pip=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    others = ("rpe_ops", "irpe", "timm", "torchvision", "transformers", "__editable__")
    for entry in Path(site.getsitepackages()[0]).iterdir():
        if not entry.name.startswith(others) and not (packages / entry.name).exists():
            (packages / entry.name).symlink_to(entry)
    return folder / "bin" / "python"
