"""Fixtures for tests of several folders; helpers stand in tests/helpers."""

import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import MAIN, TINY_RUN, run_ok
from tests.helpers.data import make_shapes
from tests.helpers.download_server import make_certificate, serving
from tests.helpers.forks import default_signals

torch.set_num_threads(1)
# Tests fork processes that train. After an export PyTorch takes any machine for one with a GPU; if
# the first backward came then, it would start threads, and PyTorch refuses forks after that.
torch.ones((), requires_grad=True).backward()
# Shells make background processes ignore Ctrl-C, but some tests send it to this process.
default_signals()
# Without a GPU, Triton's kernels run interpreted on the CPU. Triton reads this variable when a
# kernel is defined, so it is set before any test file is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def no_stop_request(monkeypatch):
    """Forget that a killed loader worker of an earlier test asked this process to stop."""
    monkeypatch.setattr("util.signals._requested", 0)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """Draw a data set of images of one size, so that batches need no padding."""
    out = tmp_path_factory.mktemp("data") / "shapes"
    return make_shapes(out, "--train", "16", "--val", "13", "--size", "80")


@pytest.fixture(scope="session")
def varied_shapes(tmp_path_factory) -> Path:
    """Draw a data set of portrait and landscape images."""
    out = tmp_path_factory.mktemp("data") / "varied"
    return make_shapes(out, "--train", "12", "--val", "8", "--size", "80", "--aspect", "1.8")


@pytest.fixture
def args():
    """Return a function that parses options of main.py: args("--lr", "1e-3", ...)."""
    from main import get_args_parser

    def parse(*options: str):
        parsed = get_args_parser().parse_args([str(option) for option in options])
        parsed.rank, parsed.world_size, parsed.distributed = 0, 1, False
        return parsed

    return parse


@pytest.fixture
def checkpoint(args, tmp_path) -> Path:
    """Save an untrained detector of the classes that `shapes` have."""
    from tests.helpers.checkpoints import write_checkpoint

    return write_checkpoint(tmp_path / "plain.pth", args, "--num_classes", "6")


@pytest.fixture(scope="session")
def files(varied_shapes) -> list[Path]:
    """Return three images."""
    return sorted((varied_shapes / "val2017").iterdir())[:3]


@pytest.fixture(scope="session")
def browser():
    """Start a headless browser; `open_page` uses it."""
    from tests.helpers.browser import started_browser

    with started_browser() as driver:
        yield driver


@pytest.fixture
def open_page(browser):
    """Return open_page(path), which shows an HTML file and returns Selenium's driver.

    The test fails if the page logs an error or asks for anything but files.
    """
    from tests.helpers.browser import assert_quiet

    def open_file(path: Path):
        browser.get(path.resolve().as_uri())
        return browser

    yield open_file
    assert_quiet(browser)


@pytest.fixture(scope="session")
def hugging_face(tmp_path_factory) -> Path:
    """Write the folder of a tiny DETR with transformers."""
    from tests.helpers.hf_folders import RESNET_10, write_hugging_face

    return write_hugging_face(tmp_path_factory.mktemp("hf") / "tiny", RESNET_10)


@pytest.fixture
def folder(hugging_face, tmp_path) -> Path:
    """Copy `hugging_face`, for tests that change its files."""
    return shutil.copytree(hugging_face, tmp_path / "folder")


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """Make a folder with valid data, a run's checkpoint, and a file that nobody may touch."""
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
    """Serve tmp_path/served over https; downloads go to tmp_path/cache."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "certificate.pem"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served", certificate) as server:
        yield server


@pytest.fixture
def check(record_property, tmp_path):
    """Return check(name, says, line): assert that an error line matches the pattern `says`.

    The line is listed at the end of the test run.
    """

    def compare(name: str, says: str, line: str) -> None:
        assert re.search(says, line), line
        assert len(line) < 1000
        record_property("answer", (name, line.replace(str(tmp_path), "…")))

    return compare


def pytest_terminal_summary(terminalreporter):
    """Print the error lines that the fixture `check` has recorded, as a table."""
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
