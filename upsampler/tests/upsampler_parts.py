"""What the tests of the upsampler share: pictures, small models made on the spot, and a service that runs."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import torch
from PIL import Image
from skimage import data
from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution, Swin2SRImageProcessor

WITHIN_S = 240


def photo(width: int, height: int | None = None) -> Image.Image:
    """A part of a photograph, of so many pixels."""
    cat = Image.fromarray(data.chelsea())
    return cat.crop((60, 20, 360, 300)).resize((width, height or width), Image.Resampling.LANCZOS)


def in_base64(image: Image.Image, image_format: str = "PNG", **options: Any) -> str:
    """An image file as a request carries it."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def from_base64(text: str) -> Image.Image:
    """A picture as an answer carries it."""
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    image.load()
    return image


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=int)


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of any channel of any pixel, of 255."""
    assert one.size == other.size
    return int(np.abs(pixels(one) - pixels(other)).max())


def save_swin2sr(folder: Path, factor: int = 4) -> Path:
    """A Swin2SR of few weights, all random, as transformers saves it with its processor."""
    torch.manual_seed(0)
    config = Swin2SRConfig(
        image_size=32,
        embed_dim=12,
        depths=[2],
        num_heads=[2],
        window_size=4,
        mlp_ratio=1.0,
        upscale=factor,
        upsampler="pixelshuffle",
    )
    Swin2SRForImageSuperResolution(config).save_pretrained(folder)
    Swin2SRImageProcessor().save_pretrained(folder)
    return folder


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class RunningService:
    """A started ``python -m upsampler``; its output is in ``log``."""

    def __init__(self, folder: Path, **environment: str) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = int(one.getsockname()[1])
        self.log = folder / "service.log"
        settings = {"PORT": str(self.port), "WEIGHTS_DIR": str(folder / "weights"), **environment}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "upsampler"],
                env={**os.environ, "THREADS": "16", "GRACE_S": "60", **settings},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=WITHIN_S)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def answers(self, path: str) -> bool:
        """Whether *path* is answered with 200 now."""
        with contextlib.suppress(httpx.HTTPError):
            return self.client.get(path).status_code == 200
        return False

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))

    def resident_bytes(self) -> int:
        return sum(child.memory_info().rss for child in psutil.Process(self.process.pid).children())

    def state(self, request_id: str) -> Any:
        """Of the request's progress; None where there is no such request."""
        return self.client.get(f"/progress/{request_id}").json().get("state")

    def send(self, body: dict[str, Any], request_id: str = "sent") -> socket.socket:
        """A request to enlarge, sent on a socket of its own, whose answer nobody reads yet."""
        sent = json.dumps(body).encode()
        head = (
            f"POST /upsampler HTTP/1.1\r\nHost: test\r\nX-Request-Id: {request_id}\r\n"
            f"Content-Length: {len(sent)}\r\n"
        )
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=WITHIN_S)
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + sent)
        return connection

    def end(self) -> None:
        """Leave no process, whatever the test did."""
        self.client.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running_service(folder: Path, **environment: str) -> Iterator[RunningService]:
    service = RunningService(folder, **environment)
    try:
        yield service
    finally:
        service.end()
