"""What one process of the service holds, and when it begins and ends."""

from __future__ import annotations

import logging
import threading
import time

from enlight_common.errors import ShuttingDown
from enlight_common.queue import Stop, WorkQueue

from upsampler.enlarging import Engine, Enlarged, enlarge, tiles_of
from upsampler.loading import LoadedEngines, ModelUnavailable
from upsampler.models import EngineName, Upscaler, resolve_upscaler
from upsampler.request import Manner, UpscaleRequest
from upsampler.settings import UpsamplerSettings

log = logging.getLogger(__name__)

#: After a failed load, say a hub that cannot be reached, it is tried again.
_LOAD_AGAIN_S = 15.0
#: What the end of the grace time stops has this long to notice and be answered.
_LAST_STEP_S = 3.0


class Service:
    """The parts behind the routes. ``start`` it once; ``drain`` it before the process leaves."""

    def __init__(self, settings: UpsamplerSettings) -> None:
        self.settings = settings
        self.queue = WorkQueue(settings.queue_length, what="pictures")
        self.engines = LoadedEngines(self.queue, settings.device, settings.models_loaded)
        self.pictures = 0
        self._loaded = False
        self._not_ready = "the upscaler is being loaded"
        self._draining = threading.Event()
        self._stopping = threading.Event()

    def start(self) -> None:
        """Load the default model in the background, so that ``/healthz`` answers meanwhile."""
        threading.Thread(target=self._load, name="start", daemon=True).start()

    def _load(self) -> None:
        while not self._draining.is_set():
            try:
                self.engines.get(self.upscaler("sd"), self._draining.is_set)
                self._loaded = True
                return
            except ModelUnavailable as error:
                self._not_ready = error.detail
            self._draining.wait(_LOAD_AGAIN_S)

    @property
    def ready(self) -> bool | str:
        """True, or why the service takes no pictures."""
        if self._draining.is_set():
            return "the service is shutting down"
        return True if self._loaded else self._not_ready

    @property
    def stopping(self) -> bool:
        """Whether the grace time is over and what still runs has to stop."""
        return self._stopping.is_set()

    def check_open(self) -> None:
        """Refuse new work once the service is leaving. Raises ShuttingDown."""
        if self._draining.is_set():
            raise ShuttingDown("the service is shutting down")

    def upscaler(self, engine: EngineName, name: str | None = None) -> Upscaler:
        """The upscaler called *name*, or the engine's default. Raises InvalidField on an unknown name."""
        default = self.settings.upscaler if engine == "sd" else self.settings.swin2sr
        return resolve_upscaler(name or default, self.settings.weights_dir)

    def upscale(self, engine: Engine, request: UpscaleRequest, manner: Manner, stop: Stop) -> Enlarged:
        """Wait for the turn and enlarge.

        Raises:
            Overloaded: too many wait already.
            Canceled: *stop* said yes.
        """
        steps = manner.steps * (2 if manner.guidance_scale > 1 else 1)
        tiles = tiles_of(request.image.size, request.resolution, engine.factor, manner)
        # Work is counted in 100,000 pixels and step, so that small and large tiles weigh what they take.
        units = tiles * steps * manner.tile**2 / 1e5
        enlarged = self.queue.run(
            lambda stop: enlarge(engine, request.image, request.resolution, manner, stop),
            units=units,
            stop=stop,
        )
        self.pictures += 1
        return enlarged

    def drain(self, grace_s: float) -> None:
        """Take no new work and give what is in flight *grace_s* seconds."""
        if self._draining.is_set():
            return
        self._draining.set()
        log.info("draining", extra={"grace_s": grace_s})
        self._wait_until_idle(grace_s)
        self._stopping.set()
        self._wait_until_idle(_LAST_STEP_S)

    def _wait_until_idle(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.queue.busy and time.monotonic() < deadline:
            time.sleep(0.05)
