"""Files from https addresses, in PyTorch's cache."""

import hashlib
import os
import re
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from pathlib import Path

import torch
from tqdm import tqdm

from util.dist import barrier, is_main_process, print_main
from util.errors import UserError

# As in torch.hub: the end of a file's name is the beginning of its SHA-256.
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")
HASH_IN_FRAGMENT = re.compile(r"sha256=([0-9a-f]{8,64})")
TIMEOUT_S = 60
PIECE = 1 << 20


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Does not follow a server to an address without encryption."""

    def redirect_request(self, request, file, code, message, headers, url):
        _check_https(url)
        return super().redirect_request(request, file, code, message, headers, url)


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
    if not name:
        raise UserError(f"{url}: this address names no file")
    said = HASH_IN_FRAGMENT.fullmatch(fragment)
    hashed = HASH_IN_NAME.search(name)
    expected = said[1] if said else hashed[1] if hashed else None
    if fragment and not said:
        raise UserError(f"{url}: what follows # must be sha256= and at least 8 hexadecimal digits")
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if hashed is None:
        # Other files may have this name: each address gets a folder.
        path = path.parent / hashlib.sha256(url.encode()).hexdigest()[:16] / name
    if is_main_process() and not path.is_file():
        if expected is None:
            print_main(f"{url}: no hash to compare; #sha256=... behind the address gives one")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _download(address, path, expected)
        except (urllib.error.URLError, HTTPException, OSError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"{url}: cannot be downloaded ({reason})") from error
    barrier()
    return path


def _check_https(url: str) -> None:
    if not url.startswith("https://"):
        raise UserError(f"{url}: checkpoints are downloaded over https only")


def _download(url: str, path: Path, expected: str | None) -> None:
    opener = urllib.request.build_opener(_HttpsOnly)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file, opener.open(url, timeout=TIMEOUT_S) as answer:
            total = int(answer.headers.get("Content-Length") or 0)
            digest = hashlib.sha256()
            bar = tqdm(total=total or None, desc=path.name, unit="B", unit_scale=True, disable=None)
            with bar:
                while piece := answer.read(PIECE):
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
