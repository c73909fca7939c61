"""The image services against what one would run instead, with the same weights, interleaved in one run.

python benchmarks/image_services.py bgrem --rembg data/rembg/bin/rembg
python benchmarks/image_services.py bgrem-memory --rembg data/rembg/bin/rembg --requests 2000
python benchmarks/image_services.py realesrgan --upscalers RealESRGAN_x4plus

`--rembg` is the command of an environment of its own, since its server's packages do not go with ours:
python3 -m venv data/rembg && data/rembg/bin/pip install 'rembg[cpu,cli]==2.0.86'
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import skimage.data
import spandrel
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = 8
READY_WITHIN_S = 300


@dataclass
class Contender:
    """A server, and how to ask it for one picture."""

    name: str
    ask: Callable[[], None]
    process: subprocess.Popen[bytes] | None = None

    def resident_mb(self) -> float:
        """Memory of the server's processes, in MB."""
        assert self.process is not None
        first = psutil.Process(self.process.pid)
        return sum(one.memory_info().rss for one in [first, *first.children(recursive=True)]) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=BENCHMARKS)
    parser.add_argument("--rembg", default="rembg", help="the command of rembg with its server")
    parser.add_argument("--weights", type=Path, default=ROOT / "data/weights")
    parser.add_argument("--models", nargs="+", default=["u2net", "u2netp"])
    parser.add_argument("--upscalers", nargs="+", default=["RealESRGAN_x4plus"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=16, help="of a round, for each server")
    parser.add_argument("--requests", type=int, default=2000, help="for the memory, to each server")
    BENCHMARKS[(arguments := parser.parse_args()).what](arguments)


def bgrem(arguments: argparse.Namespace) -> None:
    """Pictures per second at 8 clients and the latency of one, against `rembg s`."""
    for model in arguments.models:
        with _bgrem_and_rembg(arguments, model) as contenders:
            print(f"{model}, {len(os.sched_getaffinity(0))} cores")
            compare(contenders, arguments.rounds, arguments.pictures)


def bgrem_memory(arguments: argparse.Namespace) -> None:
    """Memory over many requests, with the small model."""
    with _bgrem_and_rembg(arguments, "u2netp") as contenders:
        step = max(1, arguments.requests // 10)
        for done in range(0, arguments.requests + 1, step):
            shown = ", ".join(f"{one.name} {one.resident_mb():.0f} MB" for one in contenders)
            print(f"after {done} requests: {shown}", flush=True)
            if done < arguments.requests:
                for one in contenders:
                    _together(one, step)


def realesrgan(arguments: argparse.Namespace) -> None:
    """Pictures per second at 8 clients and the latency of one, against a plain spandrel loop."""
    for model in arguments.upscalers:
        with _realesrgan_and_loop(arguments, model) as contenders:
            print(f"{model}, {len(os.sched_getaffinity(0))} cores")
            compare(contenders, arguments.rounds, arguments.pictures)


BENCHMARKS = {"bgrem": bgrem, "bgrem-memory": bgrem_memory, "realesrgan": realesrgan}


def compare(contenders: list[Contender], rounds: int, pictures: int) -> None:
    """Print both figures for each, and the ratio of the first to the second, round by round in turn."""
    rates: dict[str, list[float]] = {one.name: [] for one in contenders}
    latencies: dict[str, list[float]] = {one.name: [] for one in contenders}
    for number in range(rounds):
        for one in contenders if number % 2 == 0 else reversed(contenders):
            rates[one.name].append(_together(one, pictures))
            latencies[one.name].extend(_alone(one, 3))
    for name in rates:
        rate, latency = statistics.median(rates[name]), statistics.median(latencies[name])
        print(f"  {name}: {rate:.2f} pictures/s at {CLIENTS} clients, {latency * 1000:.0f} ms for one client")
    ours, theirs = (one.name for one in contenders)
    by_round = [mine / other for mine, other in zip(rates[ours], rates[theirs], strict=True)]
    rate = statistics.median(by_round)
    latency = statistics.median(latencies[ours]) / statistics.median(latencies[theirs])
    print(f"  throughput ×{rate:.2f} ({min(by_round):.2f} to {max(by_round):.2f}), latency ×{latency:.2f}")


def _together(contender: Contender, pictures: int) -> float:
    """Pictures per second with 8 clients, each asking for its next picture when it has the last."""
    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as clients:
        for future in [clients.submit(contender.ask) for _ in range(pictures)]:
            future.result()
    return pictures / (time.perf_counter() - started)


def _alone(contender: Contender, times: int) -> list[float]:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        contender.ask()
        seconds.append(time.perf_counter() - started)
    return seconds


@contextlib.contextmanager
def _bgrem_and_rembg(arguments: argparse.Namespace, model: str) -> Iterator[list[Contender]]:
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).save(buffer, "JPEG", quality=92)
    photo = buffer.getvalue()
    text = base64.b64encode(photo).decode()
    ports = [_free_port(), _free_port()]
    ours = {"PORT": str(ports[0]), "WEIGHTS_DIR": str(arguments.weights), "DEFAULT_MODEL": model}
    theirs = {"U2NET_HOME": str(arguments.weights / "rembg")}
    with (
        _server([sys.executable, "-m", "bgrem"], ours, ports[0], "/readyz") as bgrem_process,
        _server(
            [arguments.rembg, "s", "--no-ui", "-p", str(ports[1])], theirs, ports[1], "/api"
        ) as rembg_process,
        httpx.Client(timeout=600) as client,
    ):

        def ask_bgrem() -> None:
            url = f"http://127.0.0.1:{ports[0]}/remove-opacity"
            client.post(url, json={"input_image": text, "model": model}).raise_for_status()

        def ask_rembg() -> None:
            url = f"http://127.0.0.1:{ports[1]}/api/remove"
            client.post(url, files={"file": photo}, data={"model": model}).raise_for_status()

        contenders = [
            Contender("bgrem", ask_bgrem, bgrem_process),
            Contender("rembg s", ask_rembg, rembg_process),
        ]
        for one in contenders:
            one.ask()  # loads the model
        yield contenders


@contextlib.contextmanager
def _realesrgan_and_loop(arguments: argparse.Namespace, model: str) -> Iterator[list[Contender]]:
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()[40:124, 100:364]).save(buffer, "PNG")
    body = {
        "input_string": base64.b64encode(buffer.getvalue()).decode(),
        "model_name": model,
        "out_resolution": 4 * 264,
    }
    port = _free_port()
    settings = {"PORT": str(port), "WEIGHTS_DIR": str(arguments.weights), "MODEL": model}
    with (
        _server([sys.executable, "-m", "realesrgan_service"], settings, port, "/readyz") as process,
        httpx.Client(timeout=3600) as client,
    ):
        network = spandrel.ModelLoader("cpu").load_from_file(
            arguments.weights / "realesrgan" / f"{model}.safetensors"
        )
        one_at_a_time = threading.Lock()

        def ask_service() -> None:
            client.post(f"http://127.0.0.1:{port}/upsampler", json=body).raise_for_status()

        def ask_loop() -> None:
            with one_at_a_time:
                _plain_loop(network.eval(), buffer.getvalue())

        contenders = [Contender("realesrgan", ask_service, process), Contender("spandrel loop", ask_loop)]
        for one in contenders:
            one.ask()
        yield contenders


def _plain_loop(network: Any, file: bytes) -> bytes:
    """In tiles of 256 pixels with 10 around them, as the realesrgan package does it; PNG in and out."""
    image = torch.from_numpy(np.array(Image.open(io.BytesIO(file)).convert("RGB"), np.float32) / 255)
    image = image.permute(2, 0, 1)[None]
    _, _, height, width = image.shape
    scale, tile, pad = network.scale, 256, 10
    output = torch.empty(1, 3, height * scale, width * scale)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(height, top + tile), min(width, left + tile)
            first_row, first_column = max(0, top - pad), max(0, left - pad)
            part = network(image[..., first_row : bottom + pad, first_column : right + pad])
            output[..., top * scale : bottom * scale, left * scale : right * scale] = part[
                ...,
                (top - first_row) * scale : (bottom - first_row) * scale,
                (left - first_column) * scale : (right - first_column) * scale,
            ]
    pixels = (output[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@contextlib.contextmanager
def _server(
    command: list[str], environment: dict[str, str], port: int, path: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers at *path*, for the length of the block."""
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}{path}").status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} did not start")
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    main()
