"""Checkpoints from https addresses, fetched from a real server on this machine."""

import hashlib
import os
import time

import pytest
import torch

from tests.helpers.two_processes import in_two_processes
from util import download
from util.checkpoint import load_checkpoint
from util.errors import UserError


def serve(server, name="model-{hash}.pth") -> str:
    """Put a checkpoint there; {hash} becomes its own. Returns the file's name."""
    torch.save({"model": {"w": torch.ones(1000)}}, server.folder / "new")
    digest = hashlib.sha256((server.folder / "new").read_bytes()).hexdigest()
    name = name.format(hash=digest[:8])
    (server.folder / "new").rename(server.folder / name)
    return name


def files(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_is_fetched_once_and_its_hash_compared(server, tmp_path):
    name = serve(server)
    for _ in range(2):
        loaded = load_checkpoint(f"{server.url}/{name}")
        assert torch.equal(loaded["model"]["w"], torch.ones(1000))
    assert server.asked == [f"/{name}"]
    assert (tmp_path / "cache" / "hub" / "checkpoints" / name).is_file()  # as torch.hub has it


def load_as(rank: int, url: str, caches: list[str]) -> bool:
    os.environ.update(TORCH_HOME=caches[rank], LOCAL_RANK="0")
    return bool((load_checkpoint(url)["model"]["w"] == 1).all())


@pytest.mark.parametrize("caches", [("one", "one"), ("one", "other")])
def test_each_machine_fetches_a_file_once(server, tmp_path, caches):
    name = serve(server)
    url, folders = f"{server.url}/{name}", [str(tmp_path / cache) for cache in caches]
    assert in_two_processes(load_as, tmp_path, url, folders) == [True, True]
    assert server.asked == [f"/{name}"] * len(set(caches))


def test_another_hash_is_refused(server, tmp_path):
    serve(server, "model-00000000.pth")
    with pytest.raises(UserError, match=r"SHA-256 is .*, not 00000000"):
        load_checkpoint(f"{server.url}/model-00000000.pth")
    serve(server, "plain.pth")
    with pytest.raises(UserError, match=r"SHA-256 is .*, not 1234567890"):
        load_checkpoint(f"{server.url}/plain.pth#sha256=1234567890")
    with pytest.raises(UserError, match=r"must be sha256="):
        load_checkpoint(f"{server.url}/plain.pth#md5=1234567890")
    assert files(tmp_path / "cache") == []


def test_files_of_one_name_from_two_addresses(server, capsys):
    serve(server, "checkpoint.pth")
    (server.folder / "other").mkdir()
    torch.save({"model": {}}, server.folder / "other" / "checkpoint.pth")
    assert load_checkpoint(f"{server.url}/checkpoint.pth")["model"]
    assert load_checkpoint(f"{server.url}/other/checkpoint.pth") == {"model": {}}
    assert "no hash to compare" in capsys.readouterr().out
    digest = hashlib.sha256((server.folder / "checkpoint.pth").read_bytes()).hexdigest()
    assert load_checkpoint(f"{server.url}/checkpoint.pth#sha256={digest}")["model"]
    assert "no hash" not in capsys.readouterr().out


def test_what_is_not_encrypted_is_not_followed(server, tmp_path):
    with pytest.raises(UserError, match="https only"):
        load_checkpoint("http://localhost/model.pth")
    with pytest.raises(UserError, match="https only"):
        load_checkpoint(f"{server.url}/to/http://localhost/model.pth")
    name = serve(server)
    assert load_checkpoint(f"{server.url}/to/{server.url}/{name}")["model"]
    assert files(tmp_path / "cache") == [name]


def test_an_address_and_its_hash_may_be_in_capitals(server, tmp_path):
    digest = hashlib.sha256((server.folder / serve(server, "plain.pth")).read_bytes()).hexdigest()
    url = server.url.replace("https", "HTTPS")
    assert load_checkpoint(f"{url}/plain.pth#sha256={digest.upper()}")["model"]
    name = serve(server, "model-{hash}.pth")
    capitals = name.replace(name[6:14], name[6:14].upper())
    (server.folder / name).rename(server.folder / capitals)
    assert load_checkpoint(f"{url}/{capitals}")["model"]


@pytest.mark.parametrize("length", [b"", b"Content-Length: lots\r\n", b"Content-Length: -3\r\n"])
def test_a_file_without_a_length_is_whole_when_the_connection_ends(server, length):
    content = (server.folder / serve(server, "plain.pth")).read_bytes()
    server.raw["model.pth"] = [b"HTTP/1.0 200 OK\r\n" + length + b"\r\n", content]
    digest = hashlib.sha256(content).hexdigest()
    assert load_checkpoint(f"{server.url}/raw/model.pth#sha256={digest}")["model"]


@pytest.mark.parametrize("head", [b"", b"HTTP/1.0 200 OK\r\n\r\n"])
def test_a_byte_now_and_then_comes_to_an_end(server, tmp_path, monkeypatch, head):
    """In the head of the answer, or in the file."""
    monkeypatch.setattr(download, "TIMEOUT_S", 0.5)
    server.raw["model.pth"] = [head, *[b"H", 0.1] * 100]
    start = time.monotonic()
    with pytest.raises(UserError, match=r"model\.pth: cannot be downloaded"):
        load_checkpoint(f"{server.url}/raw/model.pth")
    assert time.monotonic() - start < 8
    assert files(tmp_path / "cache") == []


def test_an_unknown_certificate_is_refused(server, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(UserError, match=r"cannot be downloaded .*certificate"):
        load_checkpoint(f"{server.url}/{serve(server)}")


def test_a_file_in_the_cache_that_is_another_is_refused_and_stays(server, tmp_path):
    name = serve(server)
    mine = tmp_path / "cache" / "hub" / "checkpoints" / name
    mine.parent.mkdir(parents=True)
    torch.save({"model": "mine"}, mine)
    with pytest.raises(UserError, match=rf"{name}: this file in the cache .* delete it"):
        load_checkpoint(f"{server.url}/{name}")
    assert server.asked == [] and torch.load(mine) == {"model": "mine"}
