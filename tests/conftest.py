"""Shared by the tests: a small data set, a small model, and real command lines."""

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
# A shell has what it starts in the background ignore Ctrl-C; tests send it to this process, too.
default_signals()
# Without a GPU, Triton's kernels run interpreted on the CPU. It asks when they are defined.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def nobody_wants_to_stop(monkeypatch):
    """A killed loader worker asks the process to stop its run; the next test is another run."""
    monkeypatch.setattr("util.stopping._own_wish", 0)


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
    from tests.helpers.browser import started_browser

    with started_browser() as driver:
        yield driver


@pytest.fixture
def open_page(browser):
    """open_page(path): selenium's driver, showing an HTML file that must need no network."""
    from tests.helpers.browser import assert_quiet

    def open_file(path: Path):
        browser.get(path.resolve().as_uri())
        return browser

    yield open_file
    assert_quiet(browser)


@pytest.fixture(scope="session")
def hugging_face(tmp_path_factory) -> Path:
    """A folder as transformers writes it, of a tiny DETR."""
    from tests.helpers.hf_folders import RESNET_10, write_hugging_face

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
