"""The connections over which the processes of a run notice that another one has ended."""

import contextlib
import multiprocessing
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.commands import free_port
from tests.helpers.forks import end_of_child, start_child
from util import watchdog
from util.watchdog import PeerWatchdog

# ---- the connections themselves ----


def test_strangers_are_not_connected():
    """Somebody who does not know the token, and some who say nothing, or half a line."""
    with contextlib.ExitStack() as strangers:
        main, other = PeerWatchdog(0, 2), PeerWatchdog(1, 2)
        port, token = main.listen()

        def come(says: bytes) -> socket.socket:
            stranger = strangers.enter_context(socket.create_connection(("127.0.0.1", port)))
            stranger.settimeout(10)
            stranger.sendall(says)
            return stranger

        silent = [come(b""), come(token.encode()[:9]), come(b"")]
        assert come(b"0123 1\n").recv(1) == b""
        come(b"").close()
        assert main._peers == {}
        other.connect("127.0.0.1", port, token)
        assert [stranger.recv(1) for stranger in silent] == [b""] * 3
        assert list(main._peers) == [1] and list(other._peers) == [0]
        main.close()
        other.close()


def test_somebody_else_at_the_port_is_not_the_main_process():
    """He says nothing and leaves, or says something else."""
    for answer in (b"", b"HTTP"):
        with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
            connecting = pool.submit(
                PeerWatchdog(1, 2).connect, "127.0.0.1", server.getsockname()[1], "token"
            )
            connection = server.accept()[0]
            connection.sendall(answer)
            connection.close()
            with pytest.raises(OSError):
                connecting.result(timeout=10)


@pytest.fixture
def joined(monkeypatch):
    """Process ids and stderrs of two processes joined by a watchdog; silent for 1.5 s is lost."""
    monkeypatch.setattr(watchdog, "SILENT_BEATS", 15)
    monkeypatch.setattr(watchdog, "END_AFTER_S", 0)
    address, ready = multiprocessing.SimpleQueue(), multiprocessing.SimpleQueue()

    def watch(rank: int) -> None:
        peers = PeerWatchdog(rank, 2, beat_s=0.1)
        if rank == 0:
            address.put(peers.listen())
        else:
            peers.connect("127.0.0.1", *address.get())
            ready.put(None)
        time.sleep(60)

    children = [start_child(lambda: watch(0)), start_child(lambda: watch(1))]
    ready.get()  # they are connected
    time.sleep(0.5)  # and have exchanged signs of life
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
    for number in (signal.SIGSTOP, signal.SIGKILL):  # neither may see the other one's end
        for pid, _ in joined:
            os.kill(pid, number)
    assert [end_of_child(*child) for child in joined] == [(-signal.SIGKILL, "")] * 2


def test_no_connection_is_an_error_that_can_be_lived_with():
    with pytest.raises(OSError, match="refused"):
        PeerWatchdog(1, 2).connect("127.0.0.1", free_port(), "token")
