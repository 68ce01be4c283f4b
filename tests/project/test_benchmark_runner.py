"""benchmarks/run.py: it ends in time, goes on after a failure, and leaves one file."""

import importlib.util
import json
import os
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import ROOT, run, run_ok

GOOD = """
import argparse, json, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--json", type=pathlib.Path)
path = parser.parse_args().json
if path:
    path.write_text(json.dumps({"machine": {}, "results": [{"seconds": NUMBER}]}))
print("measured")
"""
BAD = "print('before')\nraise RuntimeError('CUDA error: out of memory')\n"
SLOW = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(__file__).with_suffix(".child").write_text(str(child.pid))
pathlib.Path(sys.argv[-1]).write_text('{"results": [{"seconds": 3}]}')
print("half done", flush=True)
time.sleep(600)
"""
MACHINE = "print('gpu pretended')"
CHECK = "import sys; print('cuda:0 rpe_index FAILED'); sys.exit(1)"


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def load_runner():
    spec = importlib.util.spec_from_file_location("benchmark_run", ROOT / "benchmarks/run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def runner(monkeypatch, tmp_path):
    """Return run.main(args), with small scripts in place of the benchmarks."""
    module = load_runner()
    scripts = {"good": GOOD.replace("NUMBER", "1"), "bad": BAD, "slow": SLOW,
               "last": GOOD.replace("NUMBER", "2")}  # fmt: skip
    for name, source in scripts.items():
        (tmp_path / f"{name}.py").write_text(source)
    chosen = {}

    def start(*options, only=tuple(scripts), check="print('all ok')"):
        chosen.clear()
        chosen.update({name: [str(tmp_path / f"{name}.py")] for name in only})
        monkeypatch.setattr(module, "commands", lambda args: dict(chosen))
        monkeypatch.setattr(
            module, "checks", lambda args: {"machine": ["-c", MACHINE], "check": ["-c", check]}
        )
        return module.main(module.get_args_parser().parse_args(list(map(str, options))))

    start.module = module
    monkeypatch.chdir(tmp_path)
    return start


@pytest.mark.slow
def test_it_goes_on_after_failures_and_ends_in_time(runner, tmp_path, capfd):
    begin = time.monotonic()
    code = runner("--device", "cuda", "--minutes", "0.4", "--quick")
    assert code == 1 and time.monotonic() - begin < 0.4 * 60 + 20
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["checks"]["machine"] == {"lines": ["gpu pretended"]}
    assert report["good"]["results"] == [{"seconds": 1}] and "error" not in report["good"]
    assert report["last"]["results"] == [{"seconds": 2}]
    assert report["bad"]["error"] == "ended with exit code 1"
    assert report["bad"]["output"][0] == "before"
    assert report["bad"]["output"][-1] == "RuntimeError: CUDA error: out of memory"
    assert report["slow"]["error"].startswith("took longer than its ")
    assert report["slow"]["results"] == [{"seconds": 3}] and report["slow"]["output"] == [
        "half done"
    ]
    out = capfd.readouterr().out
    assert "==== 1/6 machine, at most" in out and "==== 6/6 last, at most" in out
    assert "failed: bad, slow" in out
    for _ in range(50):  # it is killed; the system may take a moment
        if not is_alive(int((tmp_path / "slow.child").read_text())):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("a process of the benchmark that was ended lives on")


def test_a_check_that_fails_is_recorded(runner, tmp_path):
    path = tmp_path / "sub" / "found.json"
    assert runner("--json", path, only=["good"], check=CHECK) == 1
    report = json.loads(path.read_text())
    assert report["checks"]["check"] == {
        "lines": ["cuda:0 rpe_index FAILED"], "error": "ended with exit code 1",
    }  # fmt: skip
    assert runner("--json", path, only=["good"]) == 0
    assert "error" not in json.loads(path.read_text())["checks"]["check"]


def test_a_folder_gets_a_file_for_each_and_the_failures(runner, tmp_path):
    assert runner("--json", tmp_path / "out", only=["good", "bad"]) == 1
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["good_cpu.json", "run_cpu.json"]
    report = json.loads((tmp_path / "out" / "run_cpu.json").read_text())
    assert report.keys() == {"checks", "bad"}


def test_time_that_is_left_goes_to_the_others(runner):
    limit = runner.module.TimeLimit(6, ["rpe_ops", "matching", "other"])  # 30, 20, 60
    assert limit.next("rpe_ops") == pytest.approx(360 * 30 / 110, abs=1)
    limit.is_over("rpe_ops")  # it took no time
    assert limit.next("matching") == pytest.approx(360 * 20 / 80, abs=1)
    limit.is_over("matching")
    assert limit.next("other") == pytest.approx(360, abs=1)
    assert runner.module.TimeLimit(None, ["a"]).next("a") is None


@pytest.mark.parametrize(
    ("options", "minutes"),
    [(["--device", "cuda", "--quick"], 8), (["--quick"], None), (["--device", "cuda"], None)],
)
def test_only_the_quick_look_at_a_gpu_is_limited(runner, options, minutes, monkeypatch):
    found = []
    limit = runner.module.TimeLimit
    monkeypatch.setattr(
        runner.module, "TimeLimit", lambda given, names: found.append(given) or limit(None, names)
    )
    assert runner(*options, only=["good"]) == 0
    assert found == [minutes]


@pytest.mark.slow
def test_the_checks_are_commands_that_work():
    module = load_runner()
    args = module.get_args_parser().parse_args([])
    assert set(module.checks(args)) <= set(module.SHARES)
    lines, error = module.run(module.checks(args)["machine"], 100)
    assert error == "" and f"torch    {torch.__version__}" in lines
    assert ["-m", "rpe_ops", "--check"] in module.checks(args).values()
    quick = module.get_args_parser().parse_args(["--quick", "--device", "cuda"])
    found = module.commands(quick)
    assert set(found) <= set(module.SHARES)
    for name in ("attention", "attention_bf16"):
        assert {"25x42", "50x84"} <= set(found[name])
    assert {"training_step", "detector"} <= set(found)


@pytest.mark.slow
def test_training_steps_by_each_attention(tmp_path):
    """Where the kernels do not run, that is the result."""
    model = ["--backbone", "resnet10", "--enc_layers", "1", "--dec_layers", "1", "--hidden_dim",
             "32", "--nheads", "4", "--dim_feedforward", "32"]  # fmt: skip
    path = tmp_path / "steps.json"
    run_ok(
        ROOT / "benchmarks/training_step.py", "--device", "cpu", "--rounds", "1", "--amps", "bf16",
        "--size", "64", "96", "--json", path, "--model_options", *model,
        env={"TRITON_INTERPRET": "0"},
    )  # fmt: skip
    results = json.loads(path.read_text())["results"]
    assert [(r["map"], r["variant"]) for r in results] == [
        (name, variant)
        for name in ("25x42", "50x84")
        for variant in ("fused", "sdpa", "without RPE")
    ]
    assert all(("error" in r) == (r["variant"] == "fused") for r in results)
    assert "it runs on CUDA devices" in results[0]["error"]
    assert results[2]["times_without_rpe"] == 1 and results[1]["milliseconds"] > 0


@pytest.mark.slow
def test_a_variant_that_fails_does_not_end_the_benchmark(tmp_path):
    """The environment makes one way of attention fail."""
    path = tmp_path / "attention.json"
    code = (
        "import sys, runpy; sys.path[:0] = [{0!r}, {1!r}]\n"
        "import rpe_ops.attention.cpu as cpu\n"
        "def fail(*_): raise MemoryError('none left\\nreally')\n"
        "cpu.cpu_attention = fail\n"
        "sys.argv = ['attention.py', '--rounds', '1', '--maps', '3x4', '--leave_out', 'math', "
        "'--json', {2!r}]\n"
        "runpy.run_path({1!r} + '/attention.py', run_name='__main__')\n"
    ).format(str(ROOT), str(ROOT / "benchmarks"), str(path))
    result = run("-c", code, env={"PYTHONSAFEPATH": "", **os.environ})
    assert result.returncode == 0, result.stderr
    found = {r["variant"]: r for r in json.loads(path.read_text())["results"]}
    assert found["with, cpu"]["error"] == "MemoryError: none left"
    assert found["with, sdpa"]["milliseconds"] > 0 and "with, math" not in found
