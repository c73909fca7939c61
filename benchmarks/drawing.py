"""What the service adds to a picture: bare diffusers, the engine, and POST /inference, in one run.

    .venv/bin/python benchmarks/drawing.py [--rounds 10] [--pictures 1] [--steps 20]

The three take turns, round by round, so a machine that slows down slows all of them; what counts is the
ratio to bare diffusers, not the seconds. Each draws the same prompt, seed and settings on the same device.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import torch
from diffusers import StableDiffusionPipeline
from dreambooth_api.inference.engine import Engine
from dreambooth_api.inference.request import DrawRequest
from dreambooth_api.models.bases import TINY, resolve_base
from dreambooth_api.models.store import open_store
from dreambooth_api.tiny import PIPELINE_FOLDER

PROMPT = "a striped red boat on a blue background"
GUIDANCE = 4.0
READY_SECONDS = 180


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder, service(Path(folder), device) as url:
        ways: dict[str, Callable[[], object]] = {
            "bare diffusers": bare(device, args.pictures, args.steps),
            "engine": engine(Path(folder), device, args.pictures, args.steps),
            "POST /inference": posted(url, args.pictures, args.steps),
        }
        report(measure(ways, args.rounds))


def measure(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, after one round of warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def report(seconds: dict[str, list[float]]) -> None:
    """A table of medians, and of the median ratio to the first way, round by round."""
    first = next(iter(seconds.values()))
    print(f"{'':18}{'median s':>10}{'ratio':>8}{'least':>8}{'most':>8}")
    for name, values in seconds.items():
        ratios = [value / base for value, base in zip(values, first, strict=True)]
        print(
            f"{name:18}{statistics.median(values):10.3f}"
            f"{statistics.median(ratios):8.3f}{min(ratios):8.3f}{max(ratios):8.3f}"
        )


def bare(device: str, pictures: int, steps: int) -> Callable[[], object]:
    pipeline = StableDiffusionPipeline.from_pretrained(
        PIPELINE_FOLDER, dtype=torch.float32 if device == "cpu" else torch.float16
    ).to(device)
    pipeline.set_progress_bar_config(disable=True)

    def draw() -> object:
        generators = [torch.Generator("cpu").manual_seed(7 + i) for i in range(pictures)]
        return pipeline(
            [PROMPT] * pictures, num_inference_steps=steps, guidance_scale=GUIDANCE, generator=generators
        ).images

    return draw


def engine(folder: Path, device: str, pictures: int, steps: int) -> Callable[[], object]:
    store = open_store((folder / "models").as_uri(), folder / "cache", 10**10)
    drawing = Engine(resolve_base(TINY), store, device)
    drawing.load()
    request = DrawRequest(prompt=PROMPT, num_image=pictures, steps=steps, guidance_scale=GUIDANCE, seed=7)
    return lambda: drawing.draw(request)


def posted(url: str, pictures: int, steps: int) -> Callable[[], object]:
    client = httpx.Client(base_url=url, timeout=600)
    body = {
        "prompt": PROMPT,
        "num_image": pictures,
        "num_inference_steps": steps,
        "guidance_scale": GUIDANCE,
        "seed": 7,
    }
    return lambda: client.post("/inference", json=body).raise_for_status()


@contextlib.contextmanager
def service(folder: Path, device: str) -> Iterator[str]:
    """A service of its own on a free port, stopped at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"PORT": str(port), "DATA_DIR": str(folder / "data"), "DEVICE": device, "LOG_LEVEL": "WARNING"}
    process = subprocess.Popen([sys.executable, "-m", "dreambooth_api"], env={**os.environ, **settings})
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(READY_SECONDS * 2):
        if process.poll() is not None:
            raise SystemExit("the service ended before it was ready")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        time.sleep(0.5)
    raise SystemExit(f"the service was not ready within {READY_SECONDS} seconds")


if __name__ == "__main__":
    main()
