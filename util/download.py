"""Download of files from https addresses into PyTorch's cache.

Not torch.hub.download_url_to_file: it follows redirections to http, and waits for ever for a server
that sends nothing, or a byte now and then.
"""

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

from util.distributed import barrier, is_main_process, print_main
from util.errors import UserError, one_line, truncate
from util.launchers import env_int

# As in torch.hub: a file's name ends with the beginning of its SHA-256.
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$", re.IGNORECASE)
HASH_IN_FRAGMENT = re.compile(r"sha256=([0-9a-f]{8,64})", re.IGNORECASE)
TIMEOUT_S = 60  # without a byte
MIN_BYTES = 1 << 20  # in TIMEOUT_S seconds on average; a slower download ends with an error
CHUNK_BYTES = 1 << 20


def fetch(url: str) -> Path:
    """Return the path of an address's file in the cache, downloaded if it is not there.

    Its SHA-256 is compared with the beginning that its name has (name-e632da11.pth, as in
    torch.hub) or that follows the address (#sha256=e632da11...). The file gets its name when it is
    complete. In a distributed run the main process downloads it, and one process of each other
    machine that does not share its cache; all processes must call this.

    Raises:
        UserError: The address is not an https address, cannot be reached, or its file has another
            hash.
    """
    _check_https(url)
    address, fragment = urllib.parse.urldefrag(url)
    name = Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name
    if name in ("", ".."):
        raise UserError(f"{url}: this address names no file")
    in_fragment, in_name = HASH_IN_FRAGMENT.fullmatch(fragment), HASH_IN_NAME.search(name)
    if fragment and not in_fragment:
        raise UserError(f"{url}: what follows # must be sha256= and at least 8 hexadecimal digits")
    match = in_fragment or in_name
    expected = match[1].lower() if match else ""
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not in_name:
        # Other addresses may have a file of this name: each address gets a folder.
        path = path.parent / hashlib.sha256(url.encode()).hexdigest()[:16] / name
    if is_main_process():
        if not expected and not path.is_file():
            print_main(f"{url}: no hash to compare; #sha256=... behind it gives one")
        _provide(address, path, expected)
    barrier()
    if not path.is_file() and env_int("LOCAL_RANK", 0) == 0:  # a machine with a cache of its own
        _provide(address, path, expected)
    barrier()
    return path


def _provide(url: str, path: Path, expected: str) -> None:
    """Download a file if it is not there, else compare its hash."""
    try:
        if path.is_file():
            _check_cached(path, expected)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            _download(url, path, expected)
    # ValueError, OverflowError: the server redirects to something that is not an address.
    except (urllib.error.URLError, HTTPException, OSError, ValueError, OverflowError) as error:
        reason = one_line(next(iter(str(error).splitlines()), type(error).__name__), 300)
        raise UserError(f"{url}: cannot be downloaded ({reason})") from error


def _check_https(url: str) -> None:
    try:
        scheme = urllib.parse.urlsplit(url).scheme  # in lower case
    except ValueError as error:
        raise UserError(f"{url}: not an address ({error})") from error
    if scheme != "https":
        raise UserError(f"{url}: checkpoints are downloaded over https only")


def _check_cached(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest() if expected else ""
    if not found.startswith(expected):
        raise UserError(
            f"{path}: this file in the cache has the SHA-256 {found[:16]}..., not {expected}...; "
            "delete it, and it is downloaded again"
        )


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirections to addresses without encryption."""

    def redirect_request(self, request, file, code, message, headers, url):
        _check_https(url)
        return super().redirect_request(request, file, code, message, headers, url)


class _Connection(HTTPSConnection):
    """Limits the time for the head of the answer, which may arrive a byte a second."""

    def getresponse(self) -> HTTPResponse:
        timer = threading.Timer(TIMEOUT_S, socket.socket.shutdown, (self.sock, socket.SHUT_RDWR))
        timer.start()
        try:
            return super().getresponse()
        finally:
            timer.cancel()


class _HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_Connection, request)


def _download(url: str, path: Path, expected: str) -> None:
    opener = urllib.request.build_opener(_HttpsRedirects, _HttpsHandler)
    # Not util.files.atomic_write: processes of other runs may download the same file.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file, opener.open(url, timeout=TIMEOUT_S) as answer:
            length = answer.headers.get("Content-Length") or ""
            total = int(length) if re.fullmatch("[0-9]{1,18}", length) else None
            digest = hashlib.sha256()
            bar = tqdm(
                total=total, desc=truncate(path.name, 60), unit="B", unit_scale=True, disable=None
            )
            start = time.monotonic()
            with bar:
                while chunk := answer.read1(CHUNK_BYTES):
                    file.write(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
                    seconds = time.monotonic() - start
                    if seconds > TIMEOUT_S + file.tell() * TIMEOUT_S / MIN_BYTES:
                        raise TimeoutError(f"too slow: {file.tell()} bytes in {seconds:.0f} s")
            if total and file.tell() != total:
                raise UserError(f"{url}: the connection ended too early, try again")
            if not digest.hexdigest().startswith(expected):
                raise UserError(
                    f"{url}: its SHA-256 is {digest.hexdigest()[:16]}..., not {expected}...: "
                    "it is another file"
                )
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
