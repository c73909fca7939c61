"""`python -m dreambooth_api.worker`: the worker in the foreground, set up by environment variables."""

from __future__ import annotations

import contextlib
import logging
import logging.config
import os
import signal
import sys
import threading
import time
from types import FrameType

from enlight_common.errors import EnlightError
from enlight_common.files import write_json
from enlight_common.settings import SettingsError
from enlight_common.web import log_settings

from dreambooth_api.worker.instance import Instance
from dreambooth_api.worker.lanes import Lane
from dreambooth_api.worker.main_api import MainApi
from dreambooth_api.worker.settings import WorkerSettings

_log = logging.getLogger("dreambooth_api.worker")

_BAD_SETTINGS = 2
_HEARTBEAT_S = 10.0


def main() -> int:
    try:
        settings = WorkerSettings.from_environment()
    except SettingsError as error:
        print(f"worker: {error}", file=sys.stderr)
        return _BAD_SETTINGS
    logging.config.dictConfig(log_settings(settings.log_level))
    leaving = threading.Event()

    def leave(number: int, frame: FrameType | None) -> None:
        leaving.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)

    lanes = _lanes(settings)
    for lane in lanes:
        lane.start()
    _log.info("the worker is here", extra={"worker": settings.worker_name, "kinds": settings.kinds})
    _beat(settings, lanes)
    while not leaving.wait(min(_HEARTBEAT_S, settings.idle_s or _HEARTBEAT_S)):
        _beat(settings, lanes)
        if settings.idle_s and all(lane.idle_s >= settings.idle_s for lane in lanes):
            _log.info("nothing to do", extra={"seconds": settings.idle_s})
            break
    _leave(settings, lanes)
    _beat(settings, lanes, state="stopped")
    _log.info("the worker has left", extra={"worker": settings.worker_name})
    return 0


def _lanes(settings: WorkerSettings) -> list[Lane]:
    node_key = settings.enlight_node_key.get_secret_value()
    api = MainApi(settings.main_api_url, node_key, settings.worker_name)
    instance = Instance(settings.instance_url, settings.generation_s)
    widths = {"training": 1, "generation": settings.generations}
    return [
        Lane(
            kind,
            widths[kind],
            api,
            instance,
            base_models=settings.base_model_list,
            wait_s=settings.wait_s,
            silence_s=settings.silence_s,
        )
        for kind in settings.kind_list
    ]


def _leave(settings: WorkerSettings, lanes: list[Lane]) -> None:
    """Claim nothing more; a training is checkpointed and given back, drawings have their time."""
    for lane in lanes:
        lane.stop_claiming()
    ends = [
        threading.Thread(target=lane.leave, args=(settings.grace_s if lane.kind == "generation" else 0.0,))
        for lane in lanes
    ]
    for end in ends:
        end.start()
    for end in ends:
        while end.is_alive():
            end.join(_HEARTBEAT_S)
            _beat(settings, lanes, state="leaving")


def _beat(settings: WorkerSettings, lanes: list[Lane], state: str = "running") -> None:
    """Tell whoever looks, in a file and in the log, that this goes on and with what."""
    jobs = {lane.kind: lane.jobs for lane in lanes}
    counts = {lane.kind: dict(lane.counts) for lane in lanes}
    _log.debug("heartbeat", extra={"jobs": jobs, "counts": counts})
    folder = settings.data_dir / "workers"
    with contextlib.suppress(OSError, EnlightError):  # a full disk is no reason to stop
        folder.mkdir(parents=True, exist_ok=True)
        beat = {"at": time.time(), "pid": os.getpid(), "state": state, "jobs": jobs, "counts": counts}
        write_json(folder / f"{settings.worker_name}.json", beat, sync=False)


if __name__ == "__main__":
    sys.exit(main())
