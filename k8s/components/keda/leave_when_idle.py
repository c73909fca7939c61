"""Runs a worker until there is nothing to do for it: what a pod needs to be a Job.

The worker writes every ten seconds what it is doing (`DATA_DIR/workers/<WORKER_NAME>.json`). Once that has
shown no job, and none that came and went, for IDLE_S seconds, the worker gets SIGTERM. A job that it claims
at that moment it gives back, and it counts as no attempt. SIGTERM from outside is passed on. The exit status
is the worker's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

_WORKER = [sys.executable, "-m", "dreambooth_api.worker"]
_LOOK_S = 1.0


def what_it_does(file: Path) -> tuple[bool, Any]:
    """Whether it has a job, and how its jobs ended so far; (False, None) before its first word."""
    try:
        beat = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False, None
    return any(beat["jobs"].values()), beat["counts"]


def main() -> int:
    idle_s = float(os.environ["IDLE_S"])
    file = Path(os.environ["DATA_DIR"]) / "workers" / f"{os.environ['WORKER_NAME']}.json"
    # What a container that ran before in this pod left would be taken for this worker's.
    file.unlink(missing_ok=True)
    leaving = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: leaving.set())
    worker = subprocess.Popen(sys.argv[1:] or _WORKER, start_new_session=True)

    busy_at, counts = time.monotonic(), None
    while worker.poll() is None and not leaving.wait(_LOOK_S):
        has_job, counts_now = what_it_does(file)
        if has_job or counts_now != counts:
            busy_at, counts = time.monotonic(), counts_now
        if time.monotonic() - busy_at > idle_s:
            break
    worker.terminate()
    return worker.wait()


if __name__ == "__main__":
    sys.exit(main())
