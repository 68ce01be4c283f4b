"""Files from https addresses, in PyTorch's cache."""

import hashlib
import os
import re
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path

import torch
from tqdm import tqdm

from util.dist import barrier, is_main_process, print_main
from util.errors import UserError
from util.text import one_line, shorten

# As in torch.hub: the end of a file's name is the beginning of its SHA-256.
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$", re.IGNORECASE)
HASH_IN_FRAGMENT = re.compile(r"sha256=([0-9a-f]{8,64})", re.IGNORECASE)
TIMEOUT_S = 60  # without a byte
SLOWEST = 1 << 20  # bytes in this time, after as long again: less comes to no end
PIECE = 1 << 20


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Does not follow a server to an address without encryption."""

    def redirect_request(self, request, file, code, message, headers, url):
        _check_https(url)
        return super().redirect_request(request, file, code, message, headers, url)


class _Connection(HTTPSConnection):
    """Ends when the head of an answer takes too long, be it a byte a second."""

    def getresponse(self) -> HTTPResponse:
        end = threading.Timer(TIMEOUT_S, socket.socket.shutdown, (self.sock, socket.SHUT_RDWR))
        end.start()
        try:
            return super().getresponse()
        finally:
            end.cancel()


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_Connection, request)


def fetch(url: str) -> Path:
    """The file of an https address, downloaded unless it is in the cache.

    Its beginning of a SHA-256 is compared: of the form name-e632da11.pth, as torch.hub has it, or
    given behind the address as #sha256=e632da11... The file gets its name when it is whole.

    Raises:
        UserError: not https, not reachable, or another hash.
    """
    _check_https(url)
    address, fragment = urllib.parse.urldefrag(url)
    name = Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name
    if name in ("", ".."):
        raise UserError(f"{url}: this address names no file")
    said = HASH_IN_FRAGMENT.fullmatch(fragment)
    hashed = HASH_IN_NAME.search(name)
    expected = (said or hashed)[1].lower() if said or hashed else None
    if fragment and not said:
        raise UserError(f"{url}: what follows # must be sha256= and at least 8 hexadecimal digits")
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if hashed is None:
        # Other files may have this name: each address gets a folder.
        path = path.parent / hashlib.sha256(url.encode()).hexdigest()[:16] / name
    if is_main_process():
        try:
            if not path.is_file():
                if expected is None:
                    print_main(f"{url}: no hash to compare; #sha256=... behind it gives one")
                path.parent.mkdir(parents=True, exist_ok=True)
                _download(address, path, expected)
            elif expected:
                _check_cached(path, expected)
        # Of addresses that a server redirects to and that are none: ValueError, OverflowError.
        except (urllib.error.URLError, HTTPException, OSError, ValueError, OverflowError) as error:
            reason = one_line(next(iter(str(error).splitlines()), type(error).__name__), 300)
            raise UserError(f"{url}: cannot be downloaded ({reason})") from error
    barrier()
    return path


def _check_cached(path: Path, expected: str) -> None:
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise UserError(
            f"{path}: this file in the cache has the SHA-256 {found[:16]}..., not {expected}...; "
            "delete it, and it is downloaded again"
        )


def _check_https(url: str) -> None:
    try:
        scheme = urllib.parse.urlsplit(url).scheme  # in small letters
    except ValueError as error:
        raise UserError(f"{url}: no address ({error})") from error
    if scheme != "https":
        raise UserError(f"{url}: checkpoints are downloaded over https only")


def _download(url: str, path: Path, expected: str | None) -> None:
    opener = urllib.request.build_opener(_HttpsOnly, _Https)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file, opener.open(url, timeout=TIMEOUT_S) as answer:
            length = answer.headers.get("Content-Length") or ""
            total = int(length) if re.fullmatch("[0-9]{1,18}", length) else 0
            digest = hashlib.sha256()
            bar = tqdm(
                total=total or None,
                desc=shorten(path.name, 60),
                unit="B",
                unit_scale=True,
                disable=None,
            )
            with bar:
                begin = time.monotonic()
                while piece := answer.read1(PIECE):
                    if time.monotonic() - begin > TIMEOUT_S + file.tell() * TIMEOUT_S / SLOWEST:
                        raise TimeoutError(
                            f"too slow: {file.tell()} bytes in {time.monotonic() - begin:.0f} s"
                        )
                    file.write(piece)
                    digest.update(piece)
                    bar.update(len(piece))
            if total and file.tell() != total:
                raise UserError(f"{url}: the connection ended too early, try again")
            if expected and not digest.hexdigest().startswith(expected):
                raise UserError(
                    f"{url}: its SHA-256 is {digest.hexdigest()[:16]}..., not {expected}...: "
                    "not the file it is said to be"
                )
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
