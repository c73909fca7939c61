"""A training pod ends when there is nothing to do for it, and never while it has a training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from k8s_manifests import K8S

SCRIPT = K8S / "components/keda/leave_when_idle.py"

#: Writes what a worker writes: a line of its stdin is the jobs under way and those that have ended.
STAND_IN = """
import json, os, signal, sys
def leave(*_):
    print("left", flush=True)
    os._exit(7)
signal.signal(signal.SIGTERM, leave)
folder = os.path.join(os.environ["DATA_DIR"], "workers")
os.makedirs(folder, exist_ok=True)
for line in sys.stdin:
    jobs, ended = json.loads(line)
    path = os.path.join(folder, os.environ["WORKER_NAME"] + ".json")
    with open(path + ".new", "w") as file:
        json.dump({"jobs": {"training": jobs}, "counts": {"training": {"succeeded": ended}}}, file)
    os.replace(path + ".new", path)
    print("told", flush=True)
signal.pause()
"""


def start(folder: Path, idle_s: str, *command: str, **variables: str) -> subprocess.Popen[str]:
    names = {"DATA_DIR": str(folder), "WORKER_NAME": "pod-1", "IDLE_S": idle_s, **variables}
    return subprocess.Popen(
        [sys.executable, SCRIPT, *command],
        env={**os.environ, **names},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def tell(worker: subprocess.Popen[str], jobs: list[str], ended: int) -> None:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps([jobs, ended]) + "\n")
    worker.stdin.flush()
    assert worker.stdout.readline() == "told\n"


def test_a_worker_without_jobs_is_told_to_leave_and_its_status_is_the_pods(tmp_path: Path) -> None:
    worker = start(tmp_path, "1", sys.executable, "-c", STAND_IN)
    tell(worker, [], 0)
    output, _ = worker.communicate(timeout=60)
    assert (output, worker.returncode) == ("left\n", 7)


def test_a_worker_with_a_job_stays_however_long_it_takes(tmp_path: Path) -> None:
    worker = start(tmp_path, "1", sys.executable, "-c", STAND_IN)
    tell(worker, ["job-1"], 0)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(4)  # the bound is one second
    tell(worker, [], 1)
    assert worker.wait(60) == 7


def test_a_pod_that_is_told_to_leave_passes_it_on(tmp_path: Path) -> None:
    worker = start(tmp_path, "600", sys.executable, "-c", STAND_IN)
    tell(worker, ["job-1"], 0)
    worker.send_signal(signal.SIGTERM)
    output, _ = worker.communicate(timeout=60)
    assert (output, worker.returncode) == ("left\n", 7)


def test_a_worker_that_ends_by_itself_ends_the_pod(tmp_path: Path) -> None:
    assert start(tmp_path, "600", sys.executable, "-c", "raise SystemExit(2)").wait(60) == 2


def test_the_real_worker_is_let_go_when_main_api_has_nothing_for_it(tmp_path: Path) -> None:
    key = "enn_" + "x" * 40
    nobody = "http://127.0.0.1:1"
    (tmp_path / "workers").mkdir()
    stale = tmp_path / "workers/pod-1.json"
    stale.write_text(json.dumps({"jobs": {"training": ["job-of-the-last-container"]}, "counts": {}}))
    began = time.time()
    worker = start(
        tmp_path, "4", ENLIGHT_NODE_KEY=key, MAIN_API_URL=nobody, INSTANCE_URL=nobody, KINDS="training"
    )
    _, errors = worker.communicate(timeout=120)
    assert worker.returncode == 0, errors
    last = json.loads(stale.read_text())
    assert (last["state"], last["jobs"]) == ("stopped", {"training": []})
    assert last["at"] > began
