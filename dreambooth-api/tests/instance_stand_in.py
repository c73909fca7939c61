"""What a worker asks of its instance, answered as a test says."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RUN_ID = "cpu0-" + "0" * 24


def run_state(status: str = "succeeded", **more: Any) -> dict[str, Any]:
    """A run's state, as an instance tells it."""
    ended = {"version": "20260101T000000000000Z-000000"} if status == "succeeded" else {}
    return {
        "run_id": RUN_ID,
        "instance": "cpu0",
        "identity": "0" * 64,
        "tenant": "acme",
        "model_id": "cup",
        "method": "lora",
        "base_model": "enlight/tiny-sd",
        "learning_rate_used": 1e-4,
        "total": 3,
        "created_at": "2026-01-01T00:00:00Z",
        "status": status,
        **ended,
        **more,
    }


class InstanceStandIn:
    """`answers` is by "METHOD /path" (without its query): a status and a JSON document, or bytes."""

    def __init__(self) -> None:
        self.asked: list[str] = []  # "METHOD /path?query body"
        self.answers: dict[str, tuple[int, Any]] = {
            "GET /readyz": (200, {"status": "ready"}),
            "GET /base-model": (200, {"name": "enlight/tiny-sd", "revision": None}),
            f"POST /train/{RUN_ID}/settlement": (200, run_state()),
            f"POST /train/{RUN_ID}/lease": (200, run_state("processing")),
        }
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                outer.asked.append(f"{self.command} {self.path} {body}".strip())
                asked = f"{self.command} {self.path.partition('?')[0]}"
                status, document = outer.answers.get(asked, (404, b"<html>nothing here</html>"))
                data = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]

    def was_asked(self, what: str) -> bool:
        return any(asked.startswith(what) for asked in self.asked)

    @contextlib.contextmanager
    def serving(self) -> Iterator[InstanceStandIn]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join(10)
            self._server.server_close()
