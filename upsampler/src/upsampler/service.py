"""What one process of the service holds, and when it begins and ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from enlight_common.leaving import Leaving
from enlight_common.loading import Loaded
from enlight_common.patience import InFlight, Patience, Turns
from enlight_common.progress import Progresses
from enlight_common.queue import Stop, WorkQueue

from upsampler.encoding import Encoded
from upsampler.enlarging import Enlarged, enlarge, work_of
from upsampler.loading import LoadedEngines
from upsampler.models import EngineName, Upscaler, resolve_upscaler
from upsampler.request import Manner, UpscaleRequest
from upsampler.settings import UpsamplerSettings

#: Files that are written at once: each takes a core, and several times its picture in memory.
_ENCODED_AT_ONCE = 2


@dataclass(frozen=True)
class Wish:
    """A parsed request. *patience*: how long its client waits, the queue included."""

    upscaler: Upscaler
    request: UpscaleRequest
    manner: Manner
    patience: Patience


class Service:
    """The parts behind the routes. ``start`` it once; ``drain`` it before the process leaves."""

    def __init__(self, settings: UpsamplerSettings) -> None:
        self.settings = settings
        # A unit of work is a second by the engines' own estimates.
        self.queue = WorkQueue(settings.queue_length, what="pictures")
        self.engines = LoadedEngines(
            self.queue,
            settings.device,
            settings.models_loaded,
            hub_folder=settings.weights_dir.absolute() / "hub",
            keep=settings.upscaler,
        )
        self.progresses = Progresses()
        self.in_flight = InFlight()
        self._encoding = Turns(_ENCODED_AT_ONCE)
        self.pictures = 0
        self.leaving = Leaving()
        self.loaded = Loaded("the upscaler", self._load, self.leaving)

    def start(self) -> None:
        """Load the default model in the background, so that ``/healthz`` answers meanwhile."""
        self.loaded.start()

    def _load(self) -> None:
        # It is not kept here: another may take its place.
        self.engines.get(self.upscaler("sd"), lambda: self.leaving.draining)

    def upscaler(self, engine: EngineName, name: str | None = None) -> Upscaler:
        """The upscaler called *name*, or the engine's default. Raises InvalidField on an unknown name."""
        default = self.settings.upscaler if engine == "sd" else self.settings.swin2sr
        return resolve_upscaler(name or default, self.settings.weights_dir)

    def upscale(self, wish: Wish, request_id: str, stop: Stop) -> Enlarged:
        """Wait for the turn and enlarge.

        Raises:
            ModelUnavailable: the model cannot be had now.
            TimedOut: it would take, or took, longer than the client's patience.
            Overloaded: too many wait already.
            OutOfMemory: there is too little memory for it.
            Canceled: *stop* said yes.
        """
        image, resolution, manner = wish.request.image, wish.request.resolution, wish.manner
        with self.progresses.follow(request_id) as told, wish.patience.limit(stop) as stop_or_late:
            engine = self.engines.get(wish.upscaler, stop_or_late)
            units = work_of(image.size, resolution, engine, manner)
            estimate = units * engine.pace.seconds_per_unit
            ahead = self.queue.seconds_ahead()
            wish.patience.check(estimate, ahead)
            told.tell(0.0, ahead + estimate)

            def compute(stop: Stop) -> Enlarged:
                told.begin(estimate)
                done = 0.0

                def advance(newly: float) -> None:
                    nonlocal done
                    done += newly
                    told.tell(min(1.0, done / units), (units - done) * engine.pace.seconds_per_unit)

                return enlarge(engine, image, resolution, manner, stop, advance)

            enlarged = self.queue.run(compute, units=max(estimate, 0.01), stop=stop_or_late)
        self.pictures += 1
        return enlarged

    def encoded(self, encode: Callable[[], Encoded], stop: Stop) -> Encoded:
        """What *encode* makes; a few at once. Raises Canceled when *stop* said so first."""
        with self._encoding.enter(stop):
            return encode()

    def drain(self, grace_s: float) -> None:
        """Take no new work and give what is in flight *grace_s* seconds."""
        self.leaving.drain(grace_s, self.in_flight.wait_for_none)
