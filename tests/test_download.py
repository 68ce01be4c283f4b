"""Checkpoints from https addresses, fetched from a real server on this machine."""

import hashlib
import http.server
import shutil
import ssl
import subprocess
import threading

import pytest
import torch

from util.checkpoint import load_checkpoint
from util.errors import UserError

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="no openssl to make a certificate with"
)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder; /to/ADDRESS redirects, /short/NAME ends after half of the file."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path.startswith("/short/"):
            content = (self.server.folder / self.path.removeprefix("/short/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", folder / "key.pem", "-out", folder / "certificate.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


@pytest.fixture
def server(certificate, tmp_path, monkeypatch):
    """serves tmp_path/served; its attribute `asked` has the paths that were asked for."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "certificate.pem"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "served"
    folder.mkdir()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "certificate.pem", certificate / "key.pem")
    made = http.server.ThreadingHTTPServer(
        ("localhost", 0), lambda *args: Handler(*args, directory=folder)
    )
    made.socket = context.wrap_socket(made.socket, server_side=True)
    made.asked, made.folder = [], folder
    made.url = f"https://localhost:{made.server_port}"
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


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


def test_a_download_that_breaks_leaves_nothing(server, tmp_path):
    name = serve(server)
    with pytest.raises(UserError, match=r"too early|cannot be downloaded"):
        load_checkpoint(f"{server.url}/short/{name}")
    with pytest.raises(UserError, match=r"absent\.pth: cannot be downloaded \(HTTP Error 404"):
        load_checkpoint(f"{server.url}/absent.pth")
    with pytest.raises(UserError, match="names no file"):
        load_checkpoint(f"{server.url}/")
    assert files(tmp_path / "cache") == []


def test_an_unknown_certificate_is_refused(server, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(UserError, match=r"cannot be downloaded .*certificate"):
        load_checkpoint(f"{server.url}/{serve(server)}")


def test_a_user_file_in_the_cache_is_not_written_over(server, tmp_path):
    name = serve(server)
    mine = tmp_path / "cache" / "hub" / "checkpoints" / name
    mine.parent.mkdir(parents=True)
    torch.save({"model": "mine"}, mine)
    assert load_checkpoint(f"{server.url}/{name}") == {"model": "mine"}
    assert server.asked == []
