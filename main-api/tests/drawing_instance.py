"""A server that draws like an instance of dreambooth-api, for tests of what main-api makes of its answers."""

from __future__ import annotations

import base64
import io
import json
import select
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


class Instance(ThreadingHTTPServer):
    """Answers `POST /inference` with `status` once `go_on` is set; 0 breaks the connection instead."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.asked: list[dict[str, Any]] = []
        self.tenants: list[str | None] = []
        #: Clients that closed their connections while their pictures were being drawn.
        self.left = 0
        self.go_on = threading.Event()
        self.go_on.set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Instance

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.tenants.append(self.headers["X-Enlight-Tenant"])
        self._wait()
        if self.server.status == 0:
            self.connection.close()
            return
        picture = io.BytesIO()
        Image.new("RGB", (64, 32), (10, 20, 30)).save(picture, "PNG")
        images = [base64.b64encode(picture.getvalue()).decode()] * body["num_image"]
        answer: dict[str, Any] = {
            "images": images,
            "seeds": [5, 6],
            "format": "png",
            "settings": {"steps": 20},
        }
        if self.server.status != 200:
            answer = {"type": "/problems/invalid-field", "message": "scheduler: must be one of …"}
        data = json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _wait(self) -> None:
        """Until the picture is wanted, or nobody waits for it any more."""
        deadline = time.monotonic() + 60
        while not self.server.go_on.wait(0.05) and time.monotonic() < deadline:
            if select.select([self.connection], [], [], 0)[0]:
                self.server.left += 1
                return

    def log_message(self, *_: object) -> None:
        pass
