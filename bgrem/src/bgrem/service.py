"""What one process of the service holds, and when it begins and ends."""

from __future__ import annotations

import logging
import os
import threading
import time

from enlight_common.errors import ShuttingDown, Unavailable
from enlight_common.queue import Stop, WorkQueue
from PIL import Image

from bgrem.cutting import check_refinements, cut_out, warm_refinements
from bgrem.models import Models
from bgrem.places import Places
from bgrem.request import CutOptions
from bgrem.runtimes import find_runtime
from bgrem.sessions import Sessions, Turns
from bgrem.settings import ServiceSettings

log = logging.getLogger(__name__)

_LOADING_RETRY_S = 5.0
#: After a failed load, say weights that cannot be fetched, it is tried again.
_LOAD_AGAIN_S = 15.0
#: One request more than cores: while one computes, the others decode and encode.
_WORKING = len(os.sched_getaffinity(0)) + 1
_LAST_PICTURE_S = 3.0


class Cutter:
    """Cuts pictures out, once there are models and something to run them in."""

    def __init__(self, models: Models, sessions: Sessions) -> None:
        self.models = models
        self.sessions = sessions

    def prepare(self, options: CutOptions) -> None:
        """Load what *options* ask for; raises as `Sessions.session` and where matting is not there yet."""
        check_refinements(options)
        self.sessions.session(options.model, options.precision)

    def cut(self, photo: Image.Image, options: CutOptions, stop: Stop) -> Image.Image:
        """`cut_out`, given up with Canceled when *stop* says so before the network's turn."""
        session = self.sessions.session(options.model, options.precision)
        Turns.stop_by(stop)
        return cut_out(photo, session, options)


class Service:
    """The parts behind the routes. ``start`` it once; ``drain`` it before the process leaves."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.places = Places(working=_WORKING, waiting=max(1, settings.threads // 2 - _WORKING))
        self.inferences = WorkQueue(limit=_WORKING, what="pictures")
        self._cutter: Cutter | None = None
        self._not_ready = "the model is being loaded"
        self._draining = threading.Event()
        self._stopping = threading.Event()

    def start(self) -> None:
        """Load the default model in the background, so that ``/healthz`` answers meanwhile."""
        threading.Thread(target=self._load, name="load", daemon=True).start()

    def _load(self) -> None:
        while not self._draining.is_set():
            try:
                self._cutter = self._loaded()
                break
            except Exception as error:
                log.exception("the model could not be loaded")
                self._not_ready = f"the model could not be loaded ({type(error).__name__}); see the log"
            self._draining.wait(_LOAD_AGAIN_S)
        if not self._draining.is_set():
            warm_refinements()

    def _loaded(self) -> Cutter:
        settings = self.settings
        models = Models.of_rembg()
        runtime = find_runtime(settings.device, threads=settings.compute_threads)
        sessions = Sessions(runtime, self.inferences, settings.weights_dir, limit=settings.max_loaded_models)
        default = models.named(settings.default_model, "DEFAULT_MODEL")
        sessions.session(default, runtime.precision(default.name, "auto"), wait_s=None)
        log.info("ready", extra={"model": default.name, "runtime": runtime.name, "device": runtime.device})
        return Cutter(models, sessions)

    @property
    def ready(self) -> bool | str:
        """True, or why the service takes no pictures."""
        if self._draining.is_set():
            return "the service is shutting down"
        return True if self._cutter is not None else self._not_ready

    @property
    def loaded_cutter(self) -> Cutter | None:
        """The cutter, or None while nothing is loaded."""
        return self._cutter

    @property
    def cutter(self) -> Cutter:
        """The cutter. Raises Unavailable while nothing is loaded."""
        if self._cutter is None:
            raise Unavailable(self._not_ready, retry_after=_LOADING_RETRY_S)
        return self._cutter

    def check_open(self) -> None:
        """Raise ShuttingDown once the service is leaving."""
        if self._draining.is_set():
            raise ShuttingDown("the service is shutting down")

    @property
    def stopping(self) -> bool:
        """Whether the grace time is over and what still runs has to stop."""
        return self._stopping.is_set()

    def drain(self, grace_s: float) -> None:
        """Take no new work, and give what is being done *grace_s* seconds."""
        if self._draining.is_set():
            return
        self._draining.set()
        log.info("draining", extra={"grace_s": grace_s})
        self._until_idle(grace_s)
        self._stopping.set()
        self._until_idle(_LAST_PICTURE_S)

    def _until_idle(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.places.taken and time.monotonic() < deadline:
            time.sleep(0.05)
