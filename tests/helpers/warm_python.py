"""Python processes that need not import PyTorch first: seconds less for each command line tried.

A server imports the libraries that this project's commands import, but no module of the project,
and forks for each command. The fork runs a script or module as `python` would: as `__main__`, with
its own streams, signals, exit handlers and exit code. What Python and the libraries read as they
start (options of the interpreter, PYTHON* and OMP_* variables) is the server's.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy

from tests.helpers.forks import default_signals, signal_all

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = (
    "scipy.optimize", "PIL.Image", "tqdm", "torch.distributed", "torch.utils.data",
    "torch.utils.checkpoint", "torch.optim.swa_utils", "torchvision.transforms.v2",
    "pycocotools.cocoeval", "faster_coco_eval", "matplotlib.pyplot",
)  # fmt: skip


class WarmPython:
    """Runs scripts, one at a time; `env` is the environment of the server that is forked."""

    def __init__(self, env: dict[str, str]):
        ours, its = socket.socketpair()
        with its:
            self._server = subprocess.Popen(
                [sys.executable, "-m", __name__, str(its.fileno())],
                pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, env=env, cwd=ROOT,
            )  # fmt: skip
        self._channel, self._answer = ours, b""

    def run(
        self, command: list[str], cwd: Path, env: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess:
        """`command`: a script, or -m and a module, with options.

        Raises:
            subprocess.TimeoutExpired: it and all processes that came from it were killed.
        """
        request = json.dumps({"command": command, "cwd": str(cwd), "env": env}) + "\n"
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            streams = [stdout.fileno(), stderr.fileno()]
            socket.send_fds(self._channel, [request.encode()], streams)
            pid = self._number(None)
            try:
                code = self._number(timeout)
            except TimeoutError:
                signal_all(pid, signal.SIGKILL)
                self._number(None)
                raise subprocess.TimeoutExpired(command, timeout) from None
            stdout.seek(0)
            stderr.seek(0)
            return subprocess.CompletedProcess(command, code, stdout.read(), stderr.read())

    def _number(self, timeout: float | None) -> int:
        """The next one that the server says; TimeoutError after so many seconds."""
        self._channel.settimeout(timeout)
        while b"\n" not in self._answer:
            piece = self._channel.recv(100)
            if not piece:
                raise RuntimeError("the server that runs Python commands has ended")
            self._answer += piece
        line, _, self._answer = self._answer.partition(b"\n")
        return int(line)


def take_requests(channel: socket.socket) -> dict | None:
    """The request to run, in a fork of this process; None in the server itself, at its end."""
    while True:
        request, streams, *_ = socket.recv_fds(channel, 4096, 2)
        while request and not request.endswith(b"\n"):
            request += channel.recv(1 << 20)
        if not request:
            return None
        pid = os.fork()
        if pid == 0:
            channel.close()
            for number, stream in enumerate(streams, start=1):
                os.dup2(stream, number)
                os.close(stream)
            return json.loads(request)
        for stream in streams:
            os.close(stream)
        channel.sendall(f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        channel.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # or collecting would copy all pages in each fork
    request = take_requests(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        default_signals()
        numpy.random.seed(0)  # noqa: NPY002 - tests are the same each time
        script, *options = request["command"]
        if script == "-m":
            module, *options = options
            sys.argv, sys.path[0] = ["-m", *options], os.getcwd()
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = [script, *options], str(Path(script).resolve().parent)
            runpy.run_path(script, run_name="__main__")
