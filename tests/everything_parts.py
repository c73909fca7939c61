"""Everything at once for tests: a real instance with a real worker, and stand-ins for what would be slow."""

from __future__ import annotations

import base64
import io
import json
import random
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from main_api_servers import MainApi, Server
from PIL import Image
from services import is_free

#: Below those that the kernel gives to outgoing connections, which might have a port just when it is wanted.
_QUIET_PORTS = range(10_000, 32_000)


def quiet_ports(count: int) -> int:
    """The first of *count* ports in a row that nothing listens on."""
    for _ in range(100):
        first = random.randrange(_QUIET_PORTS.start, _QUIET_PORTS.stop - count)
        if all(is_free(port) for port in range(first, first + count)):
            return first
    raise AssertionError("no free ports in a row")


class Instance(Server):
    """A real dreambooth-api whose models go to main-api's store, by signed URLs."""

    def __init__(self, folder: Path, main_api: MainApi, node_key: str, *, port: int) -> None:
        super().__init__(folder, "instance")
        self.port = port
        self.url = f"http://127.0.0.1:{self.port}"
        self._settings = {
            "PORT": str(self.port),
            "DATA_DIR": str(folder / "instance"),
            "MODEL_STORE_URL": f"enlight+{main_api.url}/internal/v1/store",
            "ENLIGHT_NODE_KEY": node_key,
            "TRUST_TENANT_HEADER": "true",
            "DEVICE": "cpu",
            "GRACE_S": "5",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }

    def command(self) -> list[str]:
        return [sys.executable, "-m", "dreambooth_api"]

    def environment(self) -> Mapping[str, str]:
        return self._settings

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=30).is_success
        except httpx.TransportError:
            return False


class Worker(Server):
    """A real worker. It listens nowhere, so it is started when its process is."""

    def __init__(self, name: str, folder: Path, main_api: MainApi, node_key: str, **settings: str) -> None:
        super().__init__(folder, name)
        self._settings = {
            "MAIN_API_URL": main_api.url,
            "ENLIGHT_NODE_KEY": node_key,
            "WORKER_NAME": name,
            "BASE_MODELS": "enlight/tiny-sd",
            "DATA_DIR": str(folder / name),
            "WAIT_S": "2",
            "GRACE_S": "5",
            **settings,
        }

    def command(self) -> list[str]:
        return [sys.executable, "-m", "dreambooth_api.worker"]

    def environment(self) -> Mapping[str, str]:
        return self._settings

    def start(self) -> None:
        self.spawn()


class QuickInstance:
    """Speaks dreambooth-api's `POST /inference` and fills the pictures with a colour of chance.

    No two answers are the same, so that a job with two results would show.
    """

    def __init__(self) -> None:
        self.drawn = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer({"status": "ready"})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.drawn += 1
                self._answer(_drawn(body))

            def _answer(self, document: dict[str, Any]) -> None:
                data = json.dumps(document).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        class Threads(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass  # clients that were killed

        self._server = Threads(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _drawn(body: dict[str, Any]) -> dict[str, Any]:
    count = int(body.get("num_image", 1))
    seed = int(body.get("seed", 0))
    return {
        "message": "Inference is done.",
        "images": [coloured_picture(random.randbytes(3)) for _ in range(count)],
        "seeds": [seed + index for index in range(count)],
        "format": "png",
        "seconds": 0.001,
        "settings": {"scheduler": "none"},
    }


def coloured_picture(colour: bytes) -> str:
    """64 pixels square, of the colour's three bytes; PNG in base64."""
    data = io.BytesIO()
    Image.new("RGB", (64, 64), tuple(colour)).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()
