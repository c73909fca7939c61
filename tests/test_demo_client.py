"""dev-scripts/demo.py against a main-api whose job never ends."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType

import httpx
import pytest
from services import SCRIPTS

DEV_SCRIPTS = SCRIPTS.parent / "dev-scripts"
JOB = {
    "id": "job-1",
    "status": "processing",
    "progress": None,
    "urls": {"events": "/events", "cancel": "/cancel"},
}


@pytest.fixture(scope="module")
def demo() -> Iterator[ModuleType]:
    sys.path.insert(0, str(DEV_SCRIPTS))
    spec = importlib.util.spec_from_file_location("demo_client", DEV_SCRIPTS / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(DEV_SCRIPTS))


class Endless(BaseHTTPRequestHandler):
    """Streams that end at once or, with `kept_alive`, never; the job goes on all the same."""

    kept_alive = False
    asked: list[str] = []
    closing = threading.Event()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(f"event: processing\ndata: {json.dumps(JOB)}\n\n".encode())
        try:
            while self.kept_alive and not self.closing.wait(0.05):
                self.wfile.write(b": keep-alive\n\n")
        except OSError:
            pass

    def do_POST(self) -> None:
        self.asked.append(self.path)
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("kept_alive", [False, True])
def test_a_job_that_never_ends_is_given_up_and_canceled(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, kept_alive: bool
) -> None:
    monkeypatch.setattr(demo, "JOB_S", 0.5)
    monkeypatch.setattr(demo, "PAUSE_S", 0.1)
    monkeypatch.setattr(Endless, "kept_alive", kept_alive)
    monkeypatch.setattr(Endless, "asked", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        with httpx.Client(base_url=url, timeout=30) as client, pytest.raises(demo.DemoFailed, match="job-1"):
            demo.follow(client, JOB)
    finally:
        Endless.closing.set()
        server.shutdown()
        server.server_close()
        Endless.closing.clear()
    assert Endless.asked[-1] == "/cancel"
