"""When one process of a run dies, the others end, too, and say what happened first.

Left alone, they would wait in the next collective operation: for ever, or until its timeout, and
then report the timeout.
"""

import contextlib
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

# Linux notices a silent peer (its node lost power, say) after IDLE + COUNT * INTERVAL seconds.
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 15, 10, 3
CONNECT_S = 60
GRACE_S = 2  # for a process that failed to say why
END_AFTER_S = 3  # after another's failure: launchers report the process that ends first
GOODBYE = "goodbye"


class Lifeline:
    """Connections between the main process and each other one, which are watched by a thread.

    The system closes a connection when its process ends, in whatever way. A process that ends in
    order says goodbye first; one that fails tells why. The main process passes on what it learns.

    Args:
        rank, world_size: of this process; 0 is the main one.
        host: where the main process is.
        share: gives the main process's value to all; called once by each process.

    Raises:
        OSError: there is no connection.
    """

    def __init__(self, rank: int, world_size: int, host: str, share: Callable[[Any], Any]):
        self.rank = rank
        self._peers: dict[int, socket.socket] = {}
        self._closing = threading.Event()
        self._failed = threading.Event()
        if rank == 0:
            self._accept(world_size - 1, share)
        else:
            self._connect(host, share)

    def watch(self) -> None:
        """From now on; when all processes are connected."""
        for peer in self._peers.values():
            _keep_alive(peer)
        threading.Thread(target=self._wait_for_ends, name="lifeline", daemon=True).start()

    def _accept(self, others: int, share: Callable[[Any], Any]) -> None:
        # A connection must know the token: anybody on the network could connect.
        token = secrets.token_hex(16)
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        with socket.create_server(
            ("", 0), family=family, backlog=others, dualstack_ipv6=both
        ) as server:
            share((server.getsockname()[1], token))
            server.settimeout(CONNECT_S)
            while len(self._peers) < others:
                peer, _ = server.accept()
                peer.settimeout(CONNECT_S)
                said = _read_line(peer).split()
                if len(said) == 2 and secrets.compare_digest(said[0], token):
                    self._peers[int(said[1])] = peer
                else:
                    peer.close()

    def _connect(self, host: str, share: Callable[[Any], Any]) -> None:
        port, token = share(None)
        self._peers[0] = socket.create_connection((host, port), timeout=CONNECT_S)
        self._peers[0].sendall(f"{token} {self.rank}\n".encode())

    def _wait_for_ends(self) -> None:
        """In a thread: wait until a peer says something or is gone."""
        selector = selectors.DefaultSelector()
        for rank, peer in self._peers.items():
            peer.setblocking(True)
            selector.register(peer, selectors.EVENT_READ, rank)
        while selector.get_map():
            for key, _ in selector.select():
                line = _read_line(key.fileobj)
                selector.unregister(key.fileobj)
                if line != GOODBYE and not self._closing.is_set():
                    self._end(key.data, line)

    def _end(self, rank: int, line: str) -> None:
        """A peer failed: end this process, the main one after it has told the others."""
        self._failed.set()
        # What the main process could say it has said.
        if self.rank == 0 or not line:
            line = line or f"process {rank} ended without a word: killed, or its node is gone"
            print(f"error: {line}; all processes end", file=sys.stderr, flush=True)
        self._tell(line)
        time.sleep(END_AFTER_S)
        # Not sys.exit: the main thread may wait in an operation that never ends.
        os._exit(1)

    def fail(self, line: str, surely_first: bool) -> bool:
        """This process fails: tell the others why.

        Args:
            line: the error.
            surely_first: it cannot come from the failure of another process.

        Returns:
            False if another process failed first, so that this one has nothing to say.
        """
        if not surely_first and self._failed.wait(GRACE_S):
            return False
        self._closing.set()
        self._tell(f"process {self.rank}: {line}")
        return True

    def close(self) -> None:
        """This process ends in order."""
        self._closing.set()
        self._tell(GOODBYE)

    def _tell(self, line: str) -> None:
        for peer in self._peers.values():
            with contextlib.suppress(OSError):  # gone already
                peer.sendall(f"{line}\n".encode())


def _keep_alive(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
    ):
        if hasattr(socket, name):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _read_line(peer: socket.socket) -> str:
    """Up to the end of a line or of the connection."""
    said = b""
    with contextlib.suppress(OSError):  # reset, or silent for too long: as if it had ended
        while not said.endswith(b"\n") and (piece := peer.recv(4096)):
            said += piece
    return said.decode(errors="replace").strip()
