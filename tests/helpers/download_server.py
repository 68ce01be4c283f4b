"""An https server on this machine, whose answers may be anything."""

import contextlib
import http.server
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder; /to/ADDRESS redirects; /raw/NAME is answered by `server.raw[NAME]`.

    Those are lists of bytes, and of seconds to wait between them.
    """

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path.startswith("/raw/"):
            self.close_connection = True
            with contextlib.suppress(OSError):  # the other one has left
                for piece in self.server.raw[self.path.removeprefix("/raw/")]:
                    if isinstance(piece, bytes):
                        self.wfile.write(piece)
                    else:
                        time.sleep(piece)
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


def make_certificate(folder: Path) -> Path:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", folder / "key.pem", "-out", folder / "certificate.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


@contextlib.contextmanager
def serving(folder: Path, certificate: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    """Serves a folder; the attribute `asked` has the paths that were asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "certificate.pem", certificate / "key.pem")
    made = http.server.ThreadingHTTPServer(
        ("localhost", 0), lambda *args: Handler(*args, directory=folder)
    )
    made.socket = context.wrap_socket(made.socket, server_side=True)
    made.asked, made.folder, made.raw = [], folder, {}
    made.url = f"https://localhost:{made.server_port}"
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield made
    finally:
        made.shutdown()
        thread.join()
        made.server_close()
