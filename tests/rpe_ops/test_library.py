"""Which compiled library is found and loaded, and the message when there is none."""

import os
import shutil
import site
import subprocess
import venv
from pathlib import Path

import pytest
import torch

from rpe_ops import library
from rpe_ops.library import LIBRARY, build_info
from tests.helpers.commands import ROOT, run_ok

USE = """
import warnings, torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from rpe_ops import rpe_index
    for _ in range(3):
        out = rpe_index(torch.eye(3)[None, None], torch.tensor([[2, 1], [1, 1], [0, 2]]))
assert out.flatten().tolist() == [0, 0, 1, 1, 0, 1], out
for warning in caught:
    print("warning:", warning.message)
"""

needs_library = pytest.mark.skipif(LIBRARY.path is None, reason="; ".join(LIBRARY.problems))
needs_compiler = pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler")


def status(**options) -> dict[str, str]:
    """What `python -m rpe_ops` prints, by the word that each line begins with."""
    lines = run_ok("-m", "rpe_ops", **options).stdout.splitlines()
    return {line.split()[0]: line.partition(" ")[2].strip() for line in lines}


@needs_library
def test_status_names_versions_library_and_kernels():
    said = status()
    assert torch.__version__ in said["rpe_ops"]
    assert said["library"] == str(LIBRARY.path)
    assert said["built"].startswith(f"for torch {torch.__version__.split('+')[0]}")
    assert said["CPU"].endswith(torch.ops.rpe_ops.cpu_kernels())
    assert ("compiled" in said["CUDA"]) == ("cuda" in LIBRARY.devices)
    assert run_ok("-c", USE).stdout == ""


def test_without_a_library_everything_works_and_the_reason_is_said_once(tmp_path):
    env = {"RPE_OPS_LIBRARY": "off"}
    said = status(env=env)
    assert said["library"].startswith("none")
    assert said["CPU"] == "PyTorch's own operators: RPE_OPS_LIBRARY=off"
    assert said["CUDA"] == "no kernels in a library: RPE_OPS_LIBRARY=off"
    warnings = run_ok("-c", USE, env=env).stdout.splitlines()
    assert len(warnings) == 1 and "RPE_OPS_LIBRARY=off" in warnings[0]


def test_triton_is_imported_for_gpus_alone_and_need_not_be_there():
    run_ok(
        "-c",
        "import sys\n"
        f"{USE}"
        "assert 'rpe_ops.triton_lookup' not in sys.modules\n"
        "sys.modules['triton'] = None\n"  # as if it were not installed
        "from rpe_ops import triton_lookup\n"
        "reason = triton_lookup.why_not(torch.device('cuda', 0), torch.float32)\n"
        "assert 'Triton cannot be imported' in reason, reason\n",
        env={"RPE_OPS_LIBRARY": "off"},
    )


def changed_copy(folder: Path, old: str, new: str) -> Path:
    """A copy of the library that says something else of itself, as long as before."""
    assert len(old) == len(new) and LIBRARY.path.read_bytes().count(old.encode()) == 1
    path = folder / LIBRARY.path.name
    path.write_bytes(LIBRARY.path.read_bytes().replace(old.encode(), new.encode()))
    return path


@pytest.mark.slow
@needs_library
@pytest.mark.parametrize(
    ("what", "words"), [("torch", "built for torch"), ("version", "of rpe_ops")]
)
def test_a_library_for_another_version_is_not_loaded(tmp_path, what, words):
    field = f"{what}={build_info(LIBRARY.path)[what]}"
    path = changed_copy(tmp_path, field, field[:-1] + "x")
    env = {"RPE_OPS_LIBRARY": str(path)}
    assert words in status(env=env)["CPU"]
    warnings = run_ok("-c", USE, env=env).stdout.splitlines()
    assert len(warnings) == 1 and words in warnings[0] and str(path) in warnings[0]


@pytest.mark.parametrize(
    ("built_for", "running", "fits"),
    [
        ("2.10.0", "2.10.0+cu130", True),
        ("2.10.0", "2.10.0a0+b4e4ee81d3.nv25.12", True),  # of NVIDIA's containers
        ("2.11.0", "2.11.0.dev20260101+cu130", True),
        ("2.11.0", "2.11.0a0+git1234567", True),
        ("2.10.0", "2.10.1", False),
        ("2.1.0", "2.10.0", False),
        ("2.10.0", "2.11.0.dev20260101", False),
        ("2.10", "2.10.0", False),
    ],
)
def test_a_vendors_or_nightly_torch_is_known_by_its_release(monkeypatch, built_for, running, fits):
    monkeypatch.setattr(torch, "__version__", running)
    build = {"torch": built_for, "version": library.__version__}
    if fits:
        library._check_fits(build)
    else:
        with pytest.raises(ValueError, match=f"built for torch {built_for}, this is torch"):
            library._check_fits(build)


@pytest.mark.parametrize("content", [None, b"", b"no library", b"rpe_ops-library "])
def test_a_file_that_is_no_library_is_named(tmp_path, content):
    path = tmp_path / "_C.so"
    if content is not None:
        path.write_bytes(content)
    said = status(env={"RPE_OPS_LIBRARY": str(path)})
    assert str(path) in said["CPU"]


@needs_library
def test_a_library_that_cannot_be_loaded_is_passed_over(tmp_path):
    """The file has the expected strings inside, but is not a library."""
    content = LIBRARY.path.read_bytes()
    begin = content.index(b"rpe_ops-library")
    path = tmp_path / "_C.so"
    path.write_bytes(content[begin : content.index(b"\0", begin) + 1])
    assert str(path) in status(env={"RPE_OPS_LIBRARY": str(path)})["CPU"]


@pytest.mark.slow
@needs_library
def test_two_copies_of_the_package_share_one_library(tmp_path):
    shutil.copytree(ROOT / "rpe_ops", tmp_path / "copied", ignore=shutil.ignore_patterns("build"))
    run_ok(
        "-c",
        "import sys, torch, rpe_ops\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import copied\n"
        "table, index = torch.randn(1, 1, 2, 3, requires_grad=True), torch.tensor([[2], [0]])\n"
        "for package in (rpe_ops, copied):\n"
        "    package.rpe_index(table, index).sum().backward()\n"
        "    assert package.library.LIBRARY.path is not None\n"
        "assert table.grad.flatten().tolist() == [0, 0, 2, 2, 0, 0]\n",
    )


@pytest.mark.slow
@needs_library
def test_irpe_and_the_folder_work_in_another_project(tmp_path):
    """Copied without the library: they find the one of an installed copy, if there is one."""
    shutil.copy(ROOT / "rpe_ops/irpe.py", tmp_path)
    shutil.copytree(ROOT / "rpe_ops", tmp_path / "rpe_ops", ignore=shutil.ignore_patterns("_C*"))
    installed = tmp_path / "site"
    (installed / "rpe_ops").mkdir(parents=True)
    shutil.copy(LIBRARY.path, installed / "rpe_ops")
    program = (
        "import torch, rpe_ops.library\n"
        "from irpe import get_rpe_config, build_rpe\n"
        "rpe_k = build_rpe(get_rpe_config(2.0, rpe_on='k'), head_dim=4, num_heads=2)[1]\n"
        "assert rpe_k(torch.randn(1, 2, 6, 4), 2, 3).shape == (1, 2, 6, 6)\n"
        "print(rpe_ops.library.LIBRARY.path)\n"
    )
    for path, found in ((str(tmp_path), "None"), (str(installed), f"{installed}/rpe_ops")):
        env = {"PYTHONPATH": path, "RPE_OPS_LIBRARY": ""}
        result = run_ok("-c", program, cwd=tmp_path, env=env)
        assert result.stdout.startswith(found)


# ---- installing ----


def environment_with_torch(folder: Path) -> Path:
    """A new virtual environment that has what this one has, but rpe_ops; returns its python."""
    venv.create(folder, with_pip=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for entry in Path(site.getsitepackages()[0]).iterdir():
        if not entry.name.startswith("rpe_ops") and not (packages / entry.name).exists():
            (packages / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def path_without_compiler(folder: Path) -> str:
    """Return a PATH with all programs but compilers."""
    folder.mkdir()
    for entry in dict.fromkeys(os.environ["PATH"].split(os.pathsep)):
        for tool in Path(entry).glob("*"):
            compiler = any(word in tool.name for word in ("++", "gcc", "cc", "clang", "nvcc"))
            if not compiler and not (folder / tool.name).exists():
                (folder / tool.name).symlink_to(tool)
    return str(folder)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    "way",
    [
        pytest.param("setup.py", marks=pytest.mark.nightly),
        "pip",
        pytest.param("pip without a compiler", marks=pytest.mark.nightly),
    ],
)
def test_installed_as_a_user_would(tmp_path, way):
    """In a fresh environment, from a fresh copy; found from its root and from elsewhere."""
    source = tmp_path / "source"
    source.mkdir()
    shutil.copytree(
        ROOT / "rpe_ops",
        source / "rpe_ops",
        ignore=shutil.ignore_patterns("_C*", "build", "*.egg*"),
    )
    python = environment_with_torch(tmp_path / "environment")
    env = {**os.environ, "RPE_OPS_CUDA": "0"}
    if way == "pip without a compiler":
        env["PATH"] = path_without_compiler(tmp_path / "bin")
    if way == "setup.py":
        command, cwd = [python, "setup.py", "install"], source / "rpe_ops"
    else:
        command, cwd = [python, "-m", "pip", "install", "./rpe_ops"], source
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr

    for folder in (source, tmp_path):
        ask = subprocess.run(
            [python, "-m", "rpe_ops"], cwd=folder, env=env, capture_output=True, text=True
        )
        assert ask.returncode == 0, ask.stderr
        if way == "pip without a compiler":
            assert "CPU      PyTorch's own operators: no compiled library was found" in ask.stdout
            assert "there is no C++ compiler" in ask.stdout
        else:
            assert "CPU      compiled kernels" in ask.stdout, ask.stdout
            assert str(tmp_path / "environment") in ask.stdout
        used = subprocess.run(
            [python, "-c", USE], cwd=folder, env=env, capture_output=True, text=True
        )
        assert used.returncode == 0, used.stderr
        assert used.stdout.count("warning") == (way == "pip without a compiler")
