"""A real ``python -m dreambooth_api.worker`` for tests."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from claims_server import NODE_KEY


class RunningWorker:
    """A started worker; its output is in ``log``."""

    def __init__(self, folder: Path, main_api: str, instance: str, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.data, self.log = folder, folder / "worker.log"
        self._settings = {
            "MAIN_API_URL": main_api,
            "INSTANCE_URL": instance,
            "ENLIGHT_NODE_KEY": NODE_KEY,
            "WORKER_NAME": "here",
            "DATA_DIR": str(folder),
            "WAIT_S": "1",
            **environment,
        }
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dreambooth_api.worker"],
                env={**os.environ, **self._settings},
                stdout=log,
                stderr=log,
            )

    def end(self) -> None:
        """Leave no process, whatever the test did to it."""
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def running_worker(folder: Path, main_api: str, instance: str, **environment: str) -> Iterator[RunningWorker]:
    worker = RunningWorker(folder, main_api, instance, **environment)
    try:
        yield worker
    finally:
        worker.end()
