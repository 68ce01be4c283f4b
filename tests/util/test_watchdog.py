"""The connections over which the processes of a run notice that another one has ended."""

import contextlib
import multiprocessing
import os
import queue
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.commands import free_port
from tests.helpers.forks import end_of_child, start_child
from util import lifeline
from util.watchdog import PeerWatchdog

# ---- the connections themselves ----


def test_strangers_are_not_connected():
    """Somebody who does not know the token, and some who say nothing, or half a line."""
    told = queue.Queue()
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as strangers:
        main = pool.submit(PeerWatchdog, 0, 2, "127.0.0.1", told.put)
        port, token = told.get(timeout=10)

        def come(says: bytes) -> socket.socket:
            stranger = strangers.enter_context(socket.create_connection(("127.0.0.1", port)))
            stranger.sendall(says)
            return stranger

        silent = [come(b""), come(token.encode()[:9]), come(b"")]
        assert come(b"0123 1\n").recv(1) == b""
        come(b"").close()
        assert not main.done()
        other = PeerWatchdog(1, 2, "127.0.0.1", lambda _: (port, token))
        assert list(main.result(timeout=10)._peers) == [1] and list(other._peers) == [0]
        assert [stranger.recv(1) for stranger in silent] == [b""] * 3


@pytest.fixture
def joined(monkeypatch):
    """Process ids and stderrs of two processes joined by a lifeline; silent for 1.5 s is lost."""
    monkeypatch.setattr(lifeline, "SILENT_BEATS", 15)
    monkeypatch.setattr(lifeline, "END_AFTER_S", 0)
    told = multiprocessing.SimpleQueue()

    def watch(rank: int, share) -> None:
        PeerWatchdog(rank, 2, "127.0.0.1", share, beat_s=0.1).watch()
        time.sleep(60)

    children = [
        start_child(lambda: watch(0, told.put)),
        start_child(lambda: watch(1, lambda _: told.get())),
    ]
    time.sleep(0.5)
    yield children
    for pid, _ in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_process_ends_the_others(joined, victim):
    os.kill(joined[victim][0], signal.SIGSTOP)
    code, said = end_of_child(*joined[1 - victim])
    wanted = f"error: process {victim} has given no sign of life for 1.5 s: it is stopped, or its"
    assert code == 1 and said == f"{wanted} node hangs; all processes end\n"
    os.kill(joined[victim][0], signal.SIGCONT)
    assert end_of_child(*joined[victim])[0] == 1


def test_processes_that_are_all_stopped_for_a_while_go_on(joined):
    """As jobs that Slurm suspends."""
    for number, pause in ((signal.SIGSTOP, 2.5), (signal.SIGCONT, 0.5)):
        for pid, _ in joined:
            os.kill(pid, number)
        time.sleep(pause)
    for pid, _ in joined:
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        os.kill(pid, signal.SIGKILL)
    assert [end_of_child(*child) for child in joined] == [(-signal.SIGKILL, "")] * 2


def test_no_connection_is_an_error_that_can_be_lived_with():
    with pytest.raises(OSError, match="refused"):
        PeerWatchdog(1, 2, "127.0.0.1", lambda _: (free_port(), "token"))
