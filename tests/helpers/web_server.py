"""A small web server on 127.0.0.1 whose faults are chosen by the test."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site(ThreadingHTTPServer):
    """Serves `files` (path -> bytes) with Range; each request takes the next of `faults` ("" for none)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.requests: list[tuple[str, str | None]] = []  # (path, Range)
        self.over = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def publish(self, name: str, version: str, content: bytes) -> None:
        """Serve `content` as npm package `name`, so that `url("/")` is a registry."""
        digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
        dist = {"tarball": self.url("/package.tgz"), "integrity": f"sha512-{digest}"}
        about = {"name": name, "version": version, "dist": dist}
        listing = {"name": name, "dist-tags": {"latest": version}, "versions": {version: about}}
        self.files |= {"/package.tgz": content, f"/{name}": json.dumps(listing).encode()}

    def handle_error(self, request, client_address):
        pass  # clients close connections on purpose here


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault == "hangs up":
            self.close_connection = True
            return
        data = self.server.files.get(self.path)
        if data is None or fault.isdigit():
            self.send_error(int(fault or 404))
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and fault != "ignores ranges" else None
        if start is not None and start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0 if start is not None and fault == "sends another range" else start
        self.send_response(200 if start is None else 206)
        body = data[start:]
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if fault != "tells no length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        if fault in ("pauses", "stalls"):
            self.server.over.wait(1.5 if fault == "pauses" else 30)
        if fault not in ("drops", "stalls"):
            self.wfile.write(body[len(body) // 2 :])


@contextlib.contextmanager
def serving() -> Iterator[Site]:
    """Yield a running `Site`; stop it at the end."""
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield site
        finally:
            site.over.set()
            site.shutdown()
            thread.join()
