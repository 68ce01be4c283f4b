"""Shared by the tests: a small data set, a small model, and real command lines."""

import contextlib
import functools
import importlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from download_server import make_certificate, serving
from forks import default_signals
from warm_python import WarmPython

ROOT = Path(__file__).resolve().parent.parent
MAIN = str(ROOT / "main.py")
RPE = "rpe-2.0-product-ctx-1-k"
TINY_MODEL = [
    "--backbone", "resnet10", "--backbone_weights", "none", "--hidden_dim", "32", "--nheads", "4",
    "--enc_layers", "2", "--dec_layers", "2", "--dim_feedforward", "64", "--num_queries", "8",
    "--enc_rpe2d", RPE,
]  # fmt: skip
TINY_RUN = [*TINY_MODEL, "--device", "cpu", "--image_size", "64", "--num_workers", "0"]

LIMIT_S = 60  # for a run that must fail at once

torch.set_num_threads(1)
# A shell has what it starts in the background ignore Ctrl-C; tests send it to this process, too.
default_signals()
# Without a GPU, Triton's kernels run interpreted on the CPU. It asks when they are defined.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


# Without a compiler there are no compiled operators, which is said on stderr.
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore:rpe_ops runs on:RuntimeWarning"}


# Of variables that Python and its libraries read as they start.
READ_AT_START = ("PYTHON", "OMP_", "TRITON_", "MALLOC_", "GLIBC_", "LD_")


@functools.cache
def warm_python() -> WarmPython:
    return WarmPython({**os.environ, **QUIET})


def run(*command: str, timeout: int = 300, cwd: Path = ROOT, env: dict | None = None):
    """Run a Python command line from the repository's root; output as text."""
    command = [str(word) for word in command]
    environment = {**os.environ, **QUIET, **(env or {})}
    starts_anew = command[0] == "-c" or any(name.startswith(READ_AT_START) for name in env or {})
    if not starts_anew:
        return warm_python().run(command, cwd, environment, timeout)
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True,
        timeout=timeout, preexec_fn=default_signals,
    )  # fmt: skip


def run_ok(*command: str, **options) -> subprocess.CompletedProcess:
    result = run(*command, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def error_line(*command: str, **options) -> str:
    """Run a command that must fail with one line on stderr; returns the line."""
    result = run(*command, **options)
    assert result.returncode != 0, result.stdout
    assert "Traceback" not in result.stdout + result.stderr, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def answer_of_main(*options: str) -> str:
    """The one line on stderr of a run of main.py that must fail, in this process: 3 s less."""
    from main import get_args_parser, main
    from util.cli import OneLineParser, options_given, run_command

    def too_long(*_):
        raise TimeoutError(f"more than {LIMIT_S} s: it hangs")

    parser = OneLineParser(prog="main.py", parents=[get_args_parser()])
    stderr, real = io.StringIO(), sys.stderr
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LIMIT_S)
    sys.stderr = stderr
    try:
        with pytest.raises(SystemExit) as stop:
            command = [*TINY_RUN, *map(str, options)]
            args = parser.parse_args(command)
            args.given = options_given(parser, command)
            run_command(lambda: main(args))
    finally:
        sys.stderr = real
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert stop.value.code in (1, 2)
    lines = stderr.getvalue().strip().splitlines()
    assert len(lines) == 1 and "error: " in lines[0], lines
    return lines[0]


_held_ports: list[socket.socket] = []


def free_port() -> int:
    """A port that nobody else gets while the tests run: it stays bound, but is not listened on.

    Linux lets a server listen on it that says SO_REUSEADDR, as about all do.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    _held_ports.append(held)
    return held.getsockname()[1]


def make_shapes(out: Path, *options: str) -> Path:
    """A data set that tools/make_shapes.py draws, in this process."""
    folder = str(ROOT / "tools")
    if folder not in sys.path:
        sys.path.append(folder)
    tool = importlib.import_module("make_shapes")
    command = ["make_shapes.py", *map(str, (out, *options))]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(sys, "argv", command)
        tool.main()
    return out


@pytest.fixture(autouse=True)
def nobody_wants_to_stop(monkeypatch):
    """A killed loader worker asks the process to stop its run; the next test is another run."""
    monkeypatch.setattr("util.signals._requested", 0)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """Images of one size, so that padding plays no part; TINY_RUN resizes them."""
    out = tmp_path_factory.mktemp("data") / "shapes"
    return make_shapes(out, "--train", "16", "--val", "13", "--size", "80")


@pytest.fixture(scope="session")
def varied_shapes(tmp_path_factory) -> Path:
    """Portrait and landscape images, which TINY_RUN resizes."""
    out = tmp_path_factory.mktemp("data") / "varied"
    return make_shapes(out, "--train", "12", "--val", "8", "--size", "80", "--aspect", "1.8")


@pytest.fixture
def args():
    """Arguments of main.py: args("--lr", "1e-3", ...)."""
    from main import get_args_parser

    def parse(*options: str):
        parsed = get_args_parser().parse_args([str(option) for option in options])
        parsed.rank, parsed.world_size, parsed.distributed = 0, 1, False
        return parsed

    return parse


@pytest.fixture(scope="session")
def browser():
    """Selenium's driver of a headless browser; see `open_page`."""
    from browser import started_browser

    with started_browser() as driver:
        yield driver


@pytest.fixture
def open_page(browser):
    """open_page(path): selenium's driver, showing an HTML file that must need no network."""
    from browser import assert_quiet

    def open_file(path: Path):
        browser.get(path.resolve().as_uri())
        return browser

    yield open_file
    assert_quiet(browser)


@pytest.fixture(scope="session")
def hugging_face(tmp_path_factory) -> Path:
    """A folder as transformers writes it, of a tiny DETR."""
    from hf_folders import RESNET_10, write_hugging_face

    return write_hugging_face(tmp_path_factory.mktemp("hf") / "tiny", RESNET_10)


@pytest.fixture
def folder(hugging_face, tmp_path) -> Path:
    """A copy of it to be changed."""
    return shutil.copytree(hugging_face, tmp_path / "folder")


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """A folder with good data, a run's checkpoint, and files that nobody may touch."""
    root = tmp_path_factory.mktemp("hostile")
    make_shapes(root / "data", "--train", "4", "--val", "2", "--size", "64")
    run_ok(MAIN, *TINY_RUN, "--coco_path", root / "data", "--output_dir", root / "run",
           "--epochs", "1")  # fmt: skip
    (root / "outside").mkdir()
    shutil.copy(next((root / "data" / "train2017").iterdir()), root / "outside" / "secret.jpg")
    return root


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server(certificate, tmp_path, monkeypatch):
    """An https server of tmp_path/served; what is downloaded goes to tmp_path/cache."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "certificate.pem"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served", certificate) as server:
        yield server


@pytest.fixture
def check(record_property, tmp_path):
    """check(name, says, line): is the answer right? Adds it to the table at the end."""

    def compare(name: str, says: str, line: str) -> None:
        assert re.search(says, line), line
        assert len(line) < 1000
        record_property("answer", (name, line.replace(str(tmp_path), "…")))

    return compare


def pytest_terminal_summary(terminalreporter):
    """The answers that tests have recorded (test_hostile_*.py), as a table."""
    answers = [
        value
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == "answer" and report.when == "call"
    ]
    if not answers:
        return
    terminalreporter.section(f"{len(answers)} hostile or broken inputs, and what they get")
    width = max(len(name) for name, _ in answers)
    for name, line in answers:
        terminalreporter.line(f"{name:<{width}}  {line}")
