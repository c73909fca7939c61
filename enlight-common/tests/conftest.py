from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from running_process import free_port


@dataclass(frozen=True)
class Server:
    """A running gunicorn with the app in served_app.py."""

    port: int
    pid: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


def wait_until(condition, seconds: float = 30.0) -> bool:
    """Whether `condition()` becomes true; the bound only ends a failing test."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    port, log = free_port(), tmp_path_factory.mktemp("gunicorn") / "stderr"
    command = [sys.executable, "-m", "gunicorn", "-c", "python:served_app", "served_app:app"]
    environment = {**os.environ, "SERVED_PORT": str(port)}
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, cwd=Path(__file__).parent, env=environment, stderr=stderr)
    try:

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        assert wait_until(answers, 60), log.read_text()
        yield Server(port, process.pid, log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
