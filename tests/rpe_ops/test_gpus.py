"""Which GPUs the operators are compiled for, with which toolkit, and what other GPUs do."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rpe_ops import functions, library, status, toolkit
from rpe_ops.library import Library, serves
from tests.helpers.commands import ROOT, run_ok

# ---- toolkits ----


def make_toolkit(folder: Path, version: str, known: str = "compute_80 compute_90") -> Path:
    """Write a script that answers as nvcc of a toolkit; returns the folder that it is in."""
    (folder / "bin").mkdir(parents=True)
    nvcc = folder / "bin" / "nvcc"
    nvcc.write_text(
        '#!/bin/sh\ncase "$1" in\n'
        f'--version) echo "Cuda compilation tools, release {version}, V{version}.88";;\n'
        f'--dryrun) echo "#$ TOP={folder}/bin/.." >&2;;\n'
        f"--list-gpu-arch) printf '%s\\n' {known};;\nesac\n"
    )
    nvcc.chmod(0o755)
    return folder


@pytest.fixture
def places(monkeypatch, tmp_path):
    """Nothing on PATH but the shell's tools, and an empty folder instead of /usr/local."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "path").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/bin")
    monkeypatch.setattr(toolkit, "USUAL_PLACE", tmp_path / "local")
    return tmp_path


def test_toolkits_are_found_in_all_places(places, monkeypatch):
    assert toolkit.choose_toolkit("13.0", toolkit.find_toolkits()) == "no-toolkit"
    (places / "conda").mkdir()  # has no nvcc
    monkeypatch.setenv("CUDA_HOME", str(places / "conda"))
    make_toolkit(places / "old", "11.8")
    monkeypatch.setenv("CUDA_PATH", str(places / "old"))
    wrapped = make_toolkit(places / "wrapped", "12.4")
    (places / "path" / "nvcc").write_text(f'#!/bin/sh\nexec {wrapped}/bin/nvcc "$@"\n')
    (places / "path" / "nvcc").chmod(0o755)
    make_toolkit(places / "local" / "cuda-13.0", "13.0")
    (places / "local" / "cuda").symlink_to("cuda-13.0")
    make_toolkit(places / "local" / "cuda-12.9", "12.9")
    found = toolkit.find_toolkits()
    assert [t.version for t in found] == ["11.8", "12.4", "13.0", "12.9"]
    assert found[1].folder == wrapped and found[2].folder == places / "local" / "cuda-13.0"
    for cuda, version in (("13.0", "13.0"), ("13.2", "13.0"), ("12.8", "12.4"), ("11.8", "11.8")):
        assert toolkit.choose_toolkit(cuda, found).version == version
    refusal = toolkit.choose_toolkit("14.1", found)
    assert refusal == "no-toolkit-11.8-and-12.4-and-13.0-and-12.9-for-torch-cuda-14.1"


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 1\n", "", "#!/nowhere\n"])
def test_what_is_no_compiler_is_passed_over(places, script):
    (places / "path" / "nvcc").write_text(script)
    (places / "path" / "nvcc").chmod(0o755)
    make_toolkit(places / "local" / "cuda", "13.0")
    assert [t.version for t in toolkit.find_toolkits()] == ["13.0"]


def test_what_a_compiler_knows(places):
    known = "compute_75 compute_90 compute_90a compute_100 compute_121 compute_103"
    make_toolkit(places / "local" / "cuda", "13.0", known)
    (found,) = toolkit.find_toolkits()
    assert toolkit.known_capabilities(found) == [(7, 5), (9, 0), (10, 0), (10, 3), (12, 1)]


@pytest.mark.skipif(torch.version.cuda is None, reason="torch without CUDA")
def test_the_build_takes_the_toolkit_that_fits(places):
    """setup.py is asked for its version, and says before what it would build."""

    def says(**env: str) -> str:
        clean = dict.fromkeys(("CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST"), "")
        command = ("setup.py", "--version")
        return run_ok(*command, cwd=ROOT / "rpe_ops", env={**clean, **env}).stderr

    major = torch.version.cuda.split(".")[0]
    other = make_toolkit(places / "other", "6.5")
    right = make_toolkit(places / "right", f"{major}.0", "compute_50 compute_80 compute_86")
    path = f"{other}/bin:{right}/bin:/usr/bin:/bin"
    said = says(PATH=path)
    assert f"CUDA: {major}.0\n" in said and "architectures sm_80/compute_80\n" in said
    assert f"CUDA: {major}.0\n" in says(PATH="/usr/bin:/bin", CUDA_HOME=str(right))
    said = says(PATH=path, TORCH_CUDA_ARCH_LIST="8.6;9.0+PTX")
    assert "architectures sm_86/compute_90/sm_90\n" in said


# ---- architectures ----


@pytest.mark.parametrize(
    ("known", "present", "wanted"),
    [
        # nvcc 12.8, 13.0
        ("50 61 70 72 75 80 86 87 89 90 100 101 120", "", "sm_70 sm_80 sm_90 sm_100 sm_120"),
        ("75 80 86 87 88 89 90 100 103 110 120 121", "",
         "sm_75 sm_80 sm_90 sm_100 sm_110 sm_120"),
        ("75 80 86 90", "86", "sm_75 sm_80 sm_86 sm_90"),
        ("75 80 86 90", "120 80", "sm_75 sm_80 sm_90"),
        ("", "", "sm_75 sm_80 sm_90"),
    ],
)  # fmt: skip
def test_by_default_all_gpus_are_compiled_for(known, present, wanted):
    known, present = (
        [(int(name[:-1]), int(name[-1])) for name in names.split()] for names in (known, present)
    )
    codes = toolkit.default_architectures(known, present)
    assert codes[:-1] == wanted.split()
    assert codes[-1] == codes[-2].replace("sm", "compute")
    for gpu in [*known, *present, (99, 0)]:
        assert serves(codes, gpu) == (gpu >= (7, 0))
    flags = toolkit.nvcc_flags(codes)
    assert flags[0] == f"-gencode=arch=compute_{codes[0][3:]},code={codes[0]}"
    assert flags[-1] == f"-gencode=arch={codes[-1]},code={codes[-1]}"


@pytest.mark.parametrize(
    ("architectures", "served", "not_served"),
    [
        (["sm_80"], [(8, 0), (8, 6), (8, 9)], [(7, 0), (7, 5), (9, 0), (10, 0), (12, 0)]),
        (["sm_86"], [(8, 6), (8, 9)], [(8, 0), (9, 0)]),
        (["sm_75", "compute_90"], [(7, 5), (9, 0), (10, 0), (12, 1)], [(7, 0), (8, 0), (8, 9)]),
        (["compute_120"], [(12, 0), (12, 1), (13, 0)], [(9, 0), (11, 0)]),
        (["sm_90a", "compute_90a"], [(9, 0)], [(9, 1), (10, 0)]),
        (["sm_100f"], [(10, 0), (10, 3)], [(11, 0), (12, 0)]),
        (["unknown"], [(7, 0), (12, 0)], []),
    ],
)
def test_which_gpus_can_run_what(architectures, served, not_served):
    assert all(serves(architectures, capability) for capability in served)
    assert not any(serves(architectures, capability) for capability in not_served)


# ---- a GPU that cannot run the library ----


@pytest.fixture
def two_gpus(monkeypatch):
    """A library for Ampere, a GPU that runs it, and one that does not."""
    build = {"torch": "2.14.1", "cuda": "13.0", "architectures": "sm_80/sm_86", "compiler": "12"}
    built = Library(Path("_C.so"), build, frozenset({"cpu", "cuda"}))
    for module in (library, functions, status):
        monkeypatch.setattr(module, "LIBRARY", built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: ["A100", "V100"][index])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: [(8, 0), (7, 0)][index])
    monkeypatch.setattr(library, "_warned", set())
    library._has_code_for.cache_clear()
    yield
    library._has_code_for.cache_clear()


def test_a_gpu_without_code_uses_pytorch_and_says_so_once(two_gpus):
    a100, v100 = (
        SimpleNamespace(device=torch.device("cuda", index), dtype=torch.float32) for index in (0, 1)
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)  # of garbage of other tests
        for _ in range(3):
            assert functions._kernels_for(a100) == "library"
            assert functions._kernels_for(v100) == "pytorch"
    (warning,) = caught
    for words in ("PyTorch's own operators on cuda:1", "for sm_80, sm_86, which V100 of compute",
                  "TORCH_CUDA_ARCH_LIST=7.0 pip install", "; Triton"):  # fmt: skip
        assert words in str(warning.message)


def test_status_says_which_gpus_can_run_the_library(two_gpus):
    served, unserved = status.gpus()
    assert served == "cuda:0   A100: compiled kernels"
    assert unserved.startswith("cuda:1   PyTorch's own operators: ") and "7.0" in unserved
    assert "for sm_80, sm_86" in status.status()


def test_the_choice_compiles_into_a_graph(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # or torch.compile looks at them

    @torch.compile(fullgraph=True, backend="eager")
    def function(x):
        return x + 1 if library.has_code_for(1) else x + 2

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert function(torch.zeros(1)).item() == 2
