"""The helpers of the tests: default signals, and no processes left behind."""

import contextlib
import os
import signal
import socket
import subprocess
import time

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.helpers.commands import free_port, run
from tests.helpers.forks import default_signals, in_a_child

SLOW = """
import pathlib, subprocess, time
child = subprocess.Popen(["sleep", "100"], start_new_session=True)
pathlib.Path("child").write_text(str(child.pid))
time.sleep(100)
"""


def test_a_command_that_takes_too_long_leaves_nothing_behind(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "quick.py").write_text("print('done')")
    with pytest.raises(subprocess.TimeoutExpired):
        run(tmp_path / "slow.py", cwd=tmp_path, timeout=5)
    child = int((tmp_path / "child").read_text())
    end = time.monotonic() + 10
    while os.path.exists(f"/proc/{child}") and time.monotonic() < end:
        with contextlib.suppress(OSError), open(f"/proc/{child}/stat") as stat:
            if ") Z " in stat.read():  # dead, its new parent has not asked yet
                break
        time.sleep(0.01)
    else:
        assert not os.path.exists(f"/proc/{child}")
    assert run(tmp_path / "quick.py").stdout == "done\n"


def test_children_get_default_signals_where_the_tests_ignore_them():
    def interrupted() -> int:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        default_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            return 7
        return 1

    assert in_a_child(interrupted)[0] == 7


def backward() -> None:
    (torch.ones((), requires_grad=True) * 2).backward()


@pytest.mark.skipif(torch.cuda.is_available(), reason="no forks that train where there is a GPU")
def test_forks_can_train_after_an_export():
    """Run alone, too, when this process has not called backward itself."""
    with FakeTensorMode():  # as torch.export does
        torch.ones(())
    backward()
    assert in_a_child(backward) == (0, "")


def test_a_free_port_is_for_nobody_else():
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    store = dist.TCPStore("127.0.0.1", port, is_master=True)  # sockets that say so can listen
    store.set("a", "b")
    assert store.get("a") == b"b"
