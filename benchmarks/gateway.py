"""What nginx and main-api add to a picture, and how many jobs a second main-api takes.

    .venv/bin/python benchmarks/gateway.py [--rounds 40] [--steps 20] [--seconds 10]

Everything is started in a folder of its own by dev-scripts/start.sh. The ways to the same picture take turns,
so that a machine that slows down slows all of them; what counts is what a way adds to the direct call of its
own round. "Outside" is the part of a call in which the service that draws did not have it, by its own log: a
picture's time, which varies by more than a way adds, is not in it, and nor is what the way does meanwhile.
Jobs that do nothing are background removals that no process forwards: what is measured is taking them in.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
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
    #: Of the service that draws, a JSON document for each request.
    log: Path


@dataclass(frozen=True)
class Call:
    """A picture that was asked for. Seconds, as its client and as the service that drew it saw them.

    `handled` is None where another request drew it: one that was given back, and done by a worker.
    """

    seconds: float
    handled: float | None

    @property
    def outside(self) -> float:
        assert self.handled is not None
        return self.seconds - self.handled


Way = Callable[[str], object]


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
        report(measure(ways(addresses, args.steps), args.rounds, addresses.log))
        for clients in CLIENTS:
            print(f"{clients:3} clients: {submissions(addresses, clients, args.seconds):7.0f} jobs a second")


def ways(addresses: Addresses, steps: int) -> dict[str, Way]:
    """Calls by a request's id that give the same picture; the first is what the others are compared with."""
    timeout = httpx.Timeout(600)
    body: dict[str, Any] = {"prompt": PROMPT, "num_inference_steps": steps, "seed": 7}
    key = {"Authorization": f"Bearer {addresses.key}"}

    def kept(url: str, headers: dict[str, str]) -> Way:
        client = httpx.Client(base_url=url, timeout=timeout, headers=headers)

        def draw(request_id: str) -> None:
            one = {**body, "num_image": 1}
            client.post("/inference", json=one, headers={"X-Request-Id": request_id}).raise_for_status()

        return draw

    waiting = httpx.Client(base_url=addresses.main_api, timeout=timeout, headers={**key, "Prefer": "wait=60"})

    def job(request_id: str) -> None:
        headers = {"X-Request-Id": request_id}
        answer = waiting.post("/v1/generations?output=base64", json=body, headers=headers).raise_for_status()
        assert answer.json()["status"] == "succeeded", answer.text

    return {
        "the service itself": kept(addresses.service, {}),
        "through nginx": kept(addresses.nginx, {}),
        "main-api /inference": kept(addresses.main_api, key),
        "main-api /v1/generations": job,
    }


def measure(ways: dict[str, Way], rounds: int, log: Path) -> dict[str, list[Call]]:
    """The calls of each way in each round, in an order of chance, after one round of warming up."""
    taken: dict[str, dict[str, float]] = {name: {} for name in ways}
    for number in range(rounds + 1):
        for name in random.sample(list(ways), len(ways)):
            request_id = uuid.uuid4().hex
            started = time.perf_counter()
            ways[name](request_id)
            if number:
                taken[name][request_id] = time.perf_counter() - started
    asked = {request_id for calls in taken.values() for request_id in calls}
    handled = handling(log, asked)
    if missing := asked - handled.keys():
        print(
            f"{len(missing)} of {len(asked)} pictures were not drawn by the request that asked, and left out"
        )
    return {
        name: [Call(seconds, handled.get(request_id)) for request_id, seconds in calls.items()]
        for name, calls in taken.items()
    }


def handling(log: Path, asked: set[str]) -> dict[str, float]:
    """How long the service had each of these requests; the last one's line may take a moment to come."""
    handled: dict[str, float] = {}
    deadline = time.monotonic() + 2
    while asked - handled.keys() and time.monotonic() < deadline:
        time.sleep(0.1)
        lines = [json.loads(line) for line in log.read_text().splitlines() if '"/inference"' in line]
        handled = {line["request_id"]: float(line["seconds"]) for line in lines}
    return handled


def report(calls: dict[str, list[Call]]) -> None:
    """Medians of what each way takes, and of what it adds to the first way in the same round."""
    rounds = enumerate(zip(*calls.values(), strict=True))
    whole = [number for number, taken in rounds if all(call.handled is not None for call in taken)]
    calls = {name: [ours[number] for number in whole] for name, ours in calls.items()}
    first = next(iter(calls.values()))
    print(
        f"{'milliseconds':26}{'picture':>9}{'adds':>9}{'outside':>9}{'adds outside':>14}{'middle half':>16}"
    )
    for name, ours in calls.items():
        pairs = list(zip(ours, first, strict=True))
        adds = statistics.median(1000 * (call.seconds - base.seconds) for call, base in pairs)
        low, outside, high = statistics.quantiles(
            [1000 * (call.outside - base.outside) for call, base in pairs], n=4
        )
        print(
            f"{name:26}{1000 * statistics.median(call.seconds for call in ours):9.1f}{adds:9.1f}"
            f"{1000 * statistics.median(call.outside for call in ours):9.1f}{outside:14.1f}"
            f"{f'{low:.1f} to {high:.1f}':>16}"
        )


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
            log=folder / "logs/cpu0.log",
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
