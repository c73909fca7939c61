"""For tests of what runs in the background: the process itself, and the servers that it speaks to."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from main_api_servers import WITHIN_S, Api, MainApi, Server
from PIL import Image
from waiting import until


class Background(Server):
    """`python -m main_api.background` over the records of a main-api; `settings` are further variables."""

    def __init__(self, folder: Path, main_api: MainApi, **settings: str) -> None:
        super().__init__(folder, "background")
        self.settings = {
            **main_api.settings,
            "BACKGROUND_SWEEP_S": "0.5",
            "BACKGROUND_THREADS": "8",
            **settings,
        }

    def command(self) -> list[str]:
        return [sys.executable, "-m", "main_api.background"]

    def environment(self) -> Mapping[str, str]:
        return self.settings

    def start(self) -> None:
        """It listens nowhere: it is there when it says so."""
        lines = self.log.count('"ready"') if (self.folder / f"{self.name}.log").exists() else 0
        self.spawn()
        until(lambda: self.log.count('"ready"') > lines or not self.is_running, "the background is ready")
        assert self.is_running, self.log[-3000:]

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(WITHIN_S)
        self.process = None
        return status


@dataclass(frozen=True)
class Received:
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class OtherServer:
    """A server of somebody else's: it takes down what it is sent, and answers as `answer` says."""

    def __init__(self, answer: Callable[[Received], Reply], host: str = "127.0.0.1") -> None:
        self.received: list[Received] = []
        self.answer = answer
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                headers = {name.lower(): value for name, value in self.headers.items()}
                got = Received(self.path, headers, self.rfile.read(length))
                outer.received.append(got)
                reply = outer.answer(got)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *_: object) -> None:
                pass

        class Threads(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass  # clients that left

        self._server = Threads((host, 0), Handler)
        self.port = int(self._server.server_address[1])
        self.url = f"http://{host}:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> OtherServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def picture(size: int = 32, colour: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(data, "PNG")
    return data.getvalue()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image_service(received: Received) -> Reply:
    """What bgrem, upsampler and realesrgan answer, for any address: the picture, one bit redder."""
    body = received.json
    source = next(body[name] for name in ("input_image", "input_string", "image") if name in body)
    image = Image.open(io.BytesIO(base64.b64decode(source))).convert("RGB")
    changed = picture(image.width, (image.getpixel((0, 0))[0] ^ 1, 30, 30))  # type: ignore[index]
    answer = {"output_image" if "input_image" in body else "image": in_base64(changed), "status": "true"}
    return json_reply(answer)


def json_reply(document: dict[str, Any], status: int = 200, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps(document).encode(), {"Content-Type": "application/json", **named})


def put_picture(
    node: Api, claim: dict[str, Any], index: int = 0, data: bytes | None = None
) -> dict[str, Any]:
    """Store a picture as a worker does; how the completion names it."""
    data = picture() if data is None else data
    about = {"format": "png", "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "index": index}
    offer = node.post(
        f"/internal/v1/jobs/{claim['job_id']}/pictures", json={"fencing": claim["fencing"], **about}
    )
    assert offer.status_code == 200, offer.text
    assert httpx.put(offer.json()["put_url"], content=data).status_code == 204
    return {**about, "key": offer.json()["key"], "width": 32, "height": 32, "seed": 7}


def complete(node: Api, claim: dict[str, Any], **fields: Any) -> None:
    """End a claimed job: with a picture, or as `fields` say."""
    if not fields:
        fields = {"status": "succeeded", "output": {"pictures": [put_picture(node, claim)]}}
    answer = node.post(
        f"/internal/v1/jobs/{claim['job_id']}/completion",
        json={"fencing": claim["fencing"], "metrics": {"gpu_seconds": 1.5}, **fields},
    )
    assert answer.status_code == 200, answer.text


def claimed(node: Api, job_id: str) -> dict[str, Any]:
    """The claim of this job; others that wait are claimed before it, and left to their fate."""
    while (claim := node.claim(wait_s=5)) is not None:
        if claim["job_id"] == job_id:
            return dict(claim)
    raise AssertionError("the job was not there to be claimed")


@contextmanager
def background(folder: Path, main_api: MainApi, **settings: str) -> Iterator[Background]:
    process = Background(folder, main_api, **settings)
    process.start()
    try:
        yield process
    finally:
        process.kill()
