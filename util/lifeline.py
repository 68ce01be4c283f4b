"""When one process of a run dies or hangs, the others end, too, and say what happened first.

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

CONNECT_S = 60
BEAT_S = 5  # between signs of life
UNREACHED_S = 45  # a node that does not even confirm them lost its power or its network
# A process that is stopped, or whose node hangs, gives no sign for so many beats of this one: 3
# minutes. Debuggers that stop all threads, and code that holds on to Python's lock, have that long.
SILENT_BEATS = 36
GRACE_S = 2  # for a process that failed to say why
END_AFTER_S = 3  # after another's failure: launchers report the process that ends first
GOODBYE = "goodbye"
LONGEST_LINE = 4096


class _Peer:
    """A connection that hands over whole lines, and does not wait for them."""

    def __init__(self, connection: socket.socket):
        connection.setblocking(False)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREACHED_S * 1000)
        self._connection = connection
        self._received = b""
        self.is_open = True
        self.silent_beats = 0

    def lines(self) -> list[str]:
        """What arrived since the last call; sets is_open to False at the end of the connection."""
        try:
            piece = self._connection.recv(LONGEST_LINE)
        except BlockingIOError:
            return []
        except OSError:  # reset
            piece = b""
        self.silent_beats = 0
        *whole, self._received = (self._received + piece).split(b"\n")
        self.is_open = bool(piece) and len(self._received) <= LONGEST_LINE
        return [line.decode(errors="replace") for line in whole]

    def tell(self, line: str) -> None:
        with contextlib.suppress(OSError):  # gone already, or it has not read for very long
            self._connection.sendall(f"{line}\n".encode())

    def fileno(self) -> int:
        return self._connection.fileno()

    def close(self) -> None:
        self._connection.close()


class Lifeline:
    """Connections between the main process and each other one, which are watched by a thread.

    The system closes a connection when its process ends, in whatever way. A process that ends in
    order says goodbye first; one that fails tells why. Each sends empty lines as signs of life. The
    main process passes on what it learns.

    Args:
        rank, world_size: of this process; 0 is the main one.
        host: where the main process is.
        share: gives the main process's value to all; called once by each process.
        beat_s: seconds between signs of life; a process silent for SILENT_BEATS of them is lost.

    Raises:
        OSError: there is no connection.
    """

    def __init__(
        self, rank: int, world_size: int, host: str, share: Callable[[Any], Any],
        beat_s: float = BEAT_S,
    ):  # fmt: skip
        self.rank = rank
        self.beat_s = beat_s
        self._peers: dict[int, _Peer] = {}
        self._closing = threading.Event()
        self._failed = threading.Event()
        if rank == 0:
            self._accept(world_size, share)
        else:
            self._connect(host, share)

    def watch(self) -> None:
        """From now on; when all processes are connected."""
        threading.Thread(target=self._wait_for_ends, name="lifeline", daemon=True).start()

    def _accept(self, world_size: int, share: Callable[[Any], Any]) -> None:
        # A connection must know the token: anybody on the network could connect.
        token = secrets.token_hex(16)
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        expected = {f"{token} {rank}": rank for rank in range(1, world_size)}
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(
                socket.create_server(("", 0), family=family, backlog=128, dualstack_ipv6=both)
            )
            server.setblocking(False)
            selector = stack.enter_context(selectors.DefaultSelector())
            selector.register(server, selectors.EVENT_READ)
            share((server.getsockname()[1], token))
            end = time.monotonic() + CONNECT_S
            while expected:
                ready = selector.select(max(end - time.monotonic(), 0))
                if not ready and time.monotonic() >= end:
                    missing = ", ".join(map(str, expected.values()))
                    raise TimeoutError(f"no connection from process {missing}")
                for key, _ in ready:
                    if key.fileobj is server:
                        with contextlib.suppress(OSError):  # it has left again
                            stranger = _Peer(server.accept()[0])
                            selector.register(stranger, selectors.EVENT_READ)
                        continue
                    peer = key.fileobj
                    said = peer.lines()
                    if said or not peer.is_open:
                        selector.unregister(peer)
                        rank = expected.pop(said[0], None) if said else None
                        if rank is None:
                            peer.close()
                        else:
                            self._peers[rank] = peer
            for key in list(selector.get_map().values()):
                if key.fileobj is not server:
                    key.fileobj.close()

    def _connect(self, host: str, share: Callable[[Any], Any]) -> None:
        port, token = share(None)
        self._peers[0] = _Peer(socket.create_connection((host, port), timeout=CONNECT_S))
        self._peers[0].tell(f"{token} {self.rank}")

    def _wait_for_ends(self) -> None:
        """In a thread: wait until a peer says something, is gone, or gives no sign of life."""
        selector = selectors.DefaultSelector()
        for rank, peer in self._peers.items():
            selector.register(peer, selectors.EVENT_READ, rank)
        next_beat = time.monotonic()
        while selector.get_map():
            for key, _ in selector.select(max(next_beat - time.monotonic(), 0)):
                rank, peer = key.data, key.fileobj
                said = next(filter(None, peer.lines()), "")
                if said or not peer.is_open:
                    selector.unregister(peer)
                    if said != GOODBYE and not self._closing.is_set():
                        self._end(
                            said,
                            f"process {rank} ended without a word: killed, or its node is gone",
                        )
            if time.monotonic() < next_beat:
                continue
            # Counted in beats of this process: no time passes while it is stopped itself.
            next_beat = time.monotonic() + self.beat_s
            for key in selector.get_map().values():
                rank, peer = key.data, key.fileobj
                peer.tell("")
                peer.silent_beats += 1
                if peer.silent_beats > SILENT_BEATS and not self._closing.is_set():
                    silent = f"has given no sign of life for {SILENT_BEATS * self.beat_s:g} s"
                    self._end("", f"process {rank} {silent}: it is stopped, or its node hangs")

    def _end(self, said: str, observed: str) -> None:
        """A peer failed: end this process, the main one after it has told the others.

        Args:
            said: by the peer; empty if nothing.
            observed: what is said instead.
        """
        self._failed.set()
        line = said or observed
        # What the main process could say it has said.
        if self.rank == 0 or not said:
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
            peer.tell(line)
