"""What nginx and main-api add to a picture, and how many jobs a second main-api takes.

    .venv/bin/python benchmarks/gateway.py [--rounds 40] [--steps 20] [--seconds 10]

Everything is started in a folder of its own by dev-scripts/start.sh. The ways to the same picture take turns,
so that a machine that slows down slows all of them; what counts is what a way adds to the direct call of its
own round. Jobs that do nothing are background removals that no process forwards: what is measured is taking
them in.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PORTS = ("MAIN_API_PORT", "PORT", "BASE_PORT", "MONGO_PORT", "REDIS_PORT", "BROKER_PORT")
PROMPT = "a striped red boat on a blue background"
CLIENTS = (1, 8, 32)


@dataclass(frozen=True)
class Addresses:
    """Where everything answers, and the administrator's key."""

    service: str
    nginx: str
    main_api: str
    key: str


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=20, help="of each picture")
    parser.add_argument(
        "--seconds", type=float, default=10, help="of submissions, for each number of clients"
    )
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as addresses:
        report(measure(ways(addresses, args.steps), args.rounds))
        for clients in CLIENTS:
            print(f"{clients:3} clients: {submissions(addresses, clients, args.seconds):7.0f} jobs a second")


def ways(addresses: Addresses, steps: int) -> dict[str, Callable[[], object]]:
    """Calls that give the same picture; the first is what the others are compared with."""
    timeout = httpx.Timeout(600)
    body: dict[str, Any] = {"prompt": PROMPT, "num_inference_steps": steps, "seed": 7}
    key = {"Authorization": f"Bearer {addresses.key}"}

    def kept(url: str, headers: dict[str, str]) -> Callable[[], object]:
        client = httpx.Client(base_url=url, timeout=timeout, headers=headers)
        return lambda: client.post("/inference", json={**body, "num_image": 1}).raise_for_status()

    waiting = httpx.Client(base_url=addresses.main_api, timeout=timeout, headers={**key, "Prefer": "wait=60"})

    def job() -> None:
        answer = waiting.post("/v1/generations?output=base64", json=body).raise_for_status()
        assert answer.json()["status"] == "succeeded", answer.text

    return {
        "the service itself": kept(addresses.service, {}),
        "through nginx": kept(addresses.nginx, {}),
        "main-api /inference": kept(addresses.main_api, key),
        "main-api /v1/generations": job,
    }


def measure(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, in an order of chance, after one round of warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in random.sample(list(ways), len(ways)):
            started = time.perf_counter()
            ways[name]()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def report(seconds: dict[str, list[float]]) -> None:
    """Medians, and what each way adds to the first way in the same round: median and middle half."""
    first = next(iter(seconds.values()))
    print(f"{'':26}{'median ms':>10}{'adds ms':>9}{'middle half':>18}{'of 1 s %':>10}")
    for name, values in seconds.items():
        added = [1000 * (value - base) for value, base in zip(values, first, strict=True)]
        low, more, high = statistics.quantiles(added, n=4)
        middle = f"{low:.1f} to {high:.1f}"
        print(f"{name:26}{1000 * statistics.median(values):10.1f}{more:9.1f}{middle:>18}{more / 10:10.2f}")


def submissions(addresses: Addresses, clients: int, seconds: float) -> float:
    """Jobs a second that main-api takes from so many clients."""
    data = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(data, "PNG")
    body = {"image": base64.b64encode(data.getvalue()).decode()}
    headers = {"Authorization": f"Bearer {addresses.key}", "Prefer": "respond-async"}
    started = time.perf_counter()

    def submit(_: int) -> int:
        taken = 0
        with httpx.Client(base_url=addresses.main_api, headers=headers, timeout=60) as client:
            while time.perf_counter() - started < seconds:
                taken += client.post("/v1/background-removals", json=body).status_code == 202
        return taken

    with ThreadPoolExecutor(clients) as pool:
        taken = sum(pool.map(submit, range(clients)))
    return taken / (time.perf_counter() - started)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Addresses]:
    """Everything that a picture passes on its way, on free ports, stopped at the end."""
    ports = {name: str(port) for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}
    environment = {
        **os.environ,
        **ports,
        "DATA_DIR": str(folder),
        "ONLY": "mongodb,redis,broker,main-api,dreambooth",
        "INSTANCES": "1",
        "LOG_LEVEL": "WARNING",
        "MAX_QUEUED": "1000000",
        "REQUESTS_A_MINUTE": "1000000",
    }
    try:
        subprocess.run([ROOT / "dev-scripts/start.sh"], env=environment, check=True)
        yield Addresses(
            service=f"http://127.0.0.1:{ports['BASE_PORT']}",
            nginx=f"http://127.0.0.1:{ports['PORT']}",
            main_api=f"http://127.0.0.1:{ports['MAIN_API_PORT']}",
            key=(folder / "secrets/admin.key").read_text().strip(),
        )
    finally:
        subprocess.run([ROOT / "dev-scripts/stop.sh"], env=environment, check=True)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


if __name__ == "__main__":
    main()
