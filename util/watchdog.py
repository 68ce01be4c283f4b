"""A watchdog that ends all processes of a run when one of them dies, hangs or fails.

Without it the others wait in their next collective operation, for ever or until its timeout, and
then report that timeout instead of what happened first.
"""

import contextlib
import os
import secrets
import selectors
import socket
import sys
import threading
import time

CONNECT_S = 60
BEAT_S = 5  # between signs of life
UNREACHED_S = 45  # for a node to confirm what was sent, before it counts as off or unreachable
# A process without a sign of life for this many of our own beats (3 minutes) is stopped, or its
# node hangs. It is that long for debuggers, which stop all threads, and for code that does not
# release Python's lock.
SILENT_BEATS = 36
GRACE_S = 2  # for a process that failed to report why
END_AFTER_S = 3  # after another process's failure: launchers report the process that ends first
CLEAN_EXIT = "goodbye"
MAX_LINE = 4096


class _Peer:
    """A connection to another process that carries lines of text and is never waited for."""

    def __init__(self, connection: socket.socket):
        connection.setblocking(False)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREACHED_S * 1000)
        self._connection = connection
        self._received = b""
        self.is_open = True
        self.silent_beats = 0

    def read_lines(self) -> list[str]:
        """Return the lines since the last call; is_open becomes False when the peer has ended."""
        try:
            received = self._connection.recv(MAX_LINE)
        except BlockingIOError:
            return []
        except OSError:  # reset
            received = b""
        self.silent_beats = 0
        *lines, self._received = (self._received + received).split(b"\n")
        self.is_open = bool(received) and len(self._received) <= MAX_LINE
        return [line.decode(errors="replace") for line in lines]

    def send(self, line: str) -> None:
        with contextlib.suppress(OSError):  # the peer has ended, or has not read for very long
            self._connection.sendall(f"{line}\n".encode())

    def fileno(self) -> int:
        return self._connection.fileno()

    def close(self) -> None:
        self._connection.close()


class PeerWatchdog:
    """Connections between the main process and each other process, watched by a thread.

    The system closes a connection when its process ends, in whatever way. A process that ends in
    order sends CLEAN_EXIT before, one that fails sends why. Empty lines are signs of life. The main
    process passes on what it learns.

    Start it with `listen` on the main process and with `connect` on the others.

    Args:
        rank: Rank of this process; 0 is the main one.
        world_size: Number of processes.
        beat_s: Seconds between signs of life.
    """

    def __init__(self, rank: int, world_size: int, beat_s: float = BEAT_S):
        self.rank = rank
        self._world_size = world_size
        self._beat_s = beat_s
        self._peers: dict[int, _Peer] = {}
        self._unknown: dict[str, int] = {}  # rank by the line with which it makes itself known
        self._server: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        self._closing = threading.Event()
        self._peer_failed = threading.Event()

    def listen(self) -> tuple[int, str]:
        """Accept the other processes from now on.

        Returns:
            The port and the token that `connect` needs. Connections without the token are closed:
            anybody on the network could connect.

        Raises:
            OSError: There is no free port.
        """
        token = secrets.token_hex(16)
        self._unknown = {f"{token} {rank}": rank for rank in range(1, self._world_size)}
        dualstack = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dualstack else socket.AF_INET
        self._server = socket.create_server(
            ("", 0), family=family, backlog=128, dualstack_ipv6=dualstack
        )
        self._server.setblocking(False)
        self._selector.register(self._server, selectors.EVENT_READ)
        self._start()
        return self._server.getsockname()[1], token

    def connect(self, host: str, port: int, token: str) -> None:
        """Connect to the main process.

        Raises:
            OSError: It cannot be reached, or does not know the token.
        """
        connection = socket.create_connection((host, port), timeout=CONNECT_S)
        connection.sendall(f"{token} {self.rank}\n".encode())
        if connection.recv(1) != b"\n":
            connection.close()
            raise ConnectionError(f"port {port} is not that of the main process")
        self._add_peer(0, _Peer(connection))
        self._start()

    def report_failure(self, line: str, surely_first: bool) -> bool:
        """Tell the other processes why this one fails.

        Args:
            line: The error.
            surely_first: True if it cannot be a consequence of another process's failure.

        Returns:
            False if another process failed first, so that this one has nothing to report.
        """
        if not surely_first and self._peer_failed.wait(GRACE_S):
            return False
        self._closing.set()
        self._send(f"process {self.rank}: {line}")
        return True

    def close(self) -> None:
        """Tell the other processes that this one ends in order, or no longer takes part."""
        self._closing.set()
        self._send(CLEAN_EXIT)

    def _start(self) -> None:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _send(self, line: str) -> None:
        for peer in list(self._peers.values()):  # the thread may add one
            peer.send(line)

    def _add_peer(self, rank: int, peer: _Peer) -> None:
        self._peers[rank] = peer
        self._selector.register(peer, selectors.EVENT_READ, rank)

    def _watch(self) -> None:
        """Read and send in a thread, until all peers have ended."""
        next_beat = time.monotonic()
        while self._selector.get_map():
            for key, _ in self._selector.select(max(next_beat - time.monotonic(), 0)):
                if key.fileobj is self._server:
                    self._accept()
                elif key.data is None:
                    self._identify(key.fileobj)
                else:
                    self._listen_to(key.data, key.fileobj)
            if self._server is not None and (not self._unknown or self._closing.is_set()):
                self._stop_listening()
            # Beats are counted, not seconds: none pass while this process is stopped itself.
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + self._beat_s
                self._beat()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it has left again
            self._selector.register(_Peer(self._server.accept()[0]), selectors.EVENT_READ)

    def _identify(self, peer: _Peer) -> None:
        """Make a connection a peer's if its first line has the token, and close it otherwise."""
        lines = peer.read_lines()
        if not lines and peer.is_open:
            return  # half a line
        self._selector.unregister(peer)
        rank = self._unknown.pop(lines[0], None) if lines else None
        if rank is None:
            peer.close()
        else:
            peer.send("")
            self._add_peer(rank, peer)

    def _stop_listening(self) -> None:
        """Close the port and the connections that nobody made known."""
        for key in list(self._selector.get_map().values()):
            if key.data is None:
                self._selector.unregister(key.fileobj)
                key.fileobj.close()
        self._server = None

    def _listen_to(self, rank: int, peer: _Peer) -> None:
        reported = next(filter(None, peer.read_lines()), "")
        if reported or not peer.is_open:
            self._selector.unregister(peer)
            del self._peers[rank]
            if reported != CLEAN_EXIT and not self._closing.is_set():
                self._abort(
                    reported, f"process {rank} ended without a word: killed, or its node is gone"
                )

    def _beat(self) -> None:
        """Send each peer a sign of life, and look for those that sent none."""
        for rank, peer in self._peers.items():
            peer.send("")
            peer.silent_beats += 1
            if peer.silent_beats > SILENT_BEATS and not self._closing.is_set():
                silent = f"has given no sign of life for {SILENT_BEATS * self._beat_s:g} s"
                self._abort("", f"process {rank} {silent}: it is stopped, or its node hangs")

    def _abort(self, reported: str, observed: str) -> None:
        """End this process because a peer failed; the main process tells the others first.

        Args:
            reported: The line that the peer sent; empty if it sent none.
            observed: The line to show in that case.
        """
        self._peer_failed.set()
        line = reported or observed
        # What was reported to the main process is shown there.
        if self.rank == 0 or not reported:
            print(f"error: {line}; all processes end", file=sys.stderr, flush=True)
        self._send(line)
        time.sleep(END_AFTER_S)
        # Not sys.exit: the main thread may wait in an operation that never ends.
        os._exit(1)
