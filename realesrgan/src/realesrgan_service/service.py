"""What one process of the service holds, and when it begins and ends."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enlight_common.errors import InvalidField
from enlight_common.fetching import Fetches
from enlight_common.images import OutputFormat, encode_image
from enlight_common.leaving import Leaving
from enlight_common.loading import Loaded
from enlight_common.patience import InFlight, Patience, Turns
from enlight_common.progress import Progresses
from enlight_common.queue import Stop, WorkQueue
from PIL import Image

from realesrgan_service.models.catalog import Catalog, ModelFile
from realesrgan_service.models.conversion import convert_default_models
from realesrgan_service.settings import ServiceSettings
from realesrgan_service.upscaling.plan import Plan, plan

if TYPE_CHECKING:
    from realesrgan_service.upscaling.engine import Engine
    from realesrgan_service.upscaling.faces import Faces
    from realesrgan_service.upscaling.network import Network

log = logging.getLogger(__name__)

#: Files that are written at once: each takes a core, and several times its picture in memory.
_ENCODED_AT_ONCE = 2


@dataclass(frozen=True)
class Wish:
    """A parsed request. *patience*: how long its client waits, the queue included."""

    image: Image.Image
    model: ModelFile
    out_resolution: int
    tile: int
    denoise_strength: float | None
    face_enhance: bool
    patience: Patience


@dataclass(frozen=True)
class Enlarged:
    """A picture that is done, and what it took."""

    image: Image.Image
    passes: int
    tiles: int
    precision: str
    seconds: float
    faces: int | None


@dataclass
class Parts:
    """What enlarges, once it is loaded."""

    engine: Engine
    faces: Faces


class Service:
    """The parts behind the routes. ``start`` it once; ``drain`` it before the process leaves."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self._fetches = Fetches() if settings.fetch_models else None
        self.catalog = Catalog(settings.models_folder, self._fetches)
        self.progresses = Progresses()
        # A unit of work is a second by the networks' own estimates.
        self.queue = WorkQueue(limit=settings.threads // 4, what="pictures")
        self.in_flight = InFlight()
        self.pictures = 0
        self.pixels = 0
        self._encoding = Turns(_ENCODED_AT_ONCE)
        self.leaving = Leaving()
        self.loaded = Loaded("the upscaler", self._load, self.leaving)

    def start(self) -> None:
        """Load the default upscaler in the background, so that ``/healthz`` answers meanwhile."""
        self.loaded.start()

    def _load(self) -> Parts:
        settings = self.settings
        convert_default_models(settings.weights_dir, settings.models_folder)
        model = self.catalog.find(settings.model, "MODEL", stop=self._is_leaving, patient=True)
        return self.queue.run(lambda _stop: self._make_parts(model), units=0, stop=self._is_leaving)

    def _is_leaving(self) -> bool:
        return self.leaving.draining

    def _make_parts(self, model: ModelFile) -> Parts:
        # torch takes seconds to import, which no request should wait for.
        from realesrgan_service.upscaling.engine import Choice, Engine
        from realesrgan_service.upscaling.faces import Faces

        settings = self.settings
        precision = None if settings.precision == "auto" else settings.precision
        engine = Engine(self.catalog, settings.device, precision, settings.max_loaded)
        engine.network(Choice((model,), None))
        return Parts(engine, Faces(settings.weights_dir, settings.device, self._fetches))

    @property
    def networks(self) -> dict[str, Network]:
        """The networks in memory by the name of their model."""
        parts = self.loaded.value
        return {} if parts is None else parts.engine.loaded

    def check_open(self) -> None:
        """Refuse work that cannot be done now.

        Raises:
            ShuttingDown: the service is leaving.
            Unavailable: the upscaler is not in memory yet.
        """
        self.leaving.check_open()
        self.loaded.get()

    def upscale(self, wish: Wish, request_id: str, stop: Stop) -> Enlarged:
        """Wait for the turn and enlarge.

        Raises:
            InvalidField: the model's file is no upscaler, or what a field asks for is not here.
            BeingFetched: what a field asks for is on its way.
            TimedOut: it would take, or took, longer than the client's patience.
            Overloaded: too many wait already.
            Canceled: *stop* said yes.
        """
        from realesrgan_service.upscaling.enlarging import enlarge, work_of

        with self.progresses.follow(request_id) as told, wish.patience.limit(stop) as stop_or_late:
            parts = self.loaded.get()
            network = self._prepared(parts, wish, stop_or_late)
            way = plan(wish.image.size, wish.out_resolution, network.scale)
            self._check_fits(way, network)
            work = work_of(way, network, wish.tile or self.settings.tile)
            estimate = work.pixels * network.seconds_per_pixel
            ahead = self.queue.seconds_ahead()
            wish.patience.check(estimate, ahead)
            told.tell(0.0, ahead + estimate)
            log.info(
                "upscaling is estimated",
                extra={"estimated_seconds": round(estimate, 1), "megapixels": round(work.pixels / 1e6, 2)},
            )

            def compute(stop: Stop) -> Enlarged:
                started = time.monotonic()
                told.begin(estimate)
                image = enlarge(wish.image, network, work, stop=stop, report=told.tell)
                faces = parts.faces.enhance(wish.image, image, stop) if wish.face_enhance else None
                return Enlarged(
                    image=image,
                    passes=len(way.passes),
                    tiles=sum(len(tiles) for tiles in work.tiles),
                    precision=network.precision,
                    seconds=time.monotonic() - started,
                    faces=faces,
                )

            enlarged = self.queue.run(compute, units=max(estimate, 0.01), stop=stop_or_late)
        self.pictures += 1
        self.pixels += work.pixels
        return enlarged

    def _check_fits(self, way: Plan, network: Network) -> None:
        """Refuse pictures that a network has to see whole where that is more than the largest tile."""
        widest = max((max(each.size) for each in way.passes), default=0)
        if not network.tileable and widest > self.settings.tile:
            raise InvalidField(
                "input_string",
                f"must be at most {self.settings.tile} pixels wide and high, on its way to its size too, for "
                "a model that cannot work in tiles",
            )

    def encoded(self, image: Image.Image, format: OutputFormat, stop: Stop) -> bytes:
        """The picture as a file. A few are written at once. Raises Canceled when *stop* said so first."""
        with self._encoding.enter(stop):
            return encode_image(image, format)

    def _prepared(self, parts: Parts, wish: Wish, stop: Stop) -> Network:
        # In this request's own thread: a download holds up nobody else.
        choice = parts.engine.choose(wish.model, wish.denoise_strength, stop)
        if wish.face_enhance:
            parts.faces.fetch(stop)

        def load(_stop: Stop) -> Network:
            if wish.face_enhance:
                parts.faces.load()
            return parts.engine.network(choice)

        at_hand = parts.engine.at_hand(choice)
        if at_hand is not None and not wish.face_enhance:
            return at_hand
        # No units: what a load takes says nothing about how right the estimates of pictures are.
        return self.queue.run(load, units=0, stop=stop)

    def drain(self, grace_s: float) -> None:
        """Take no new work and give what is in flight *grace_s* seconds."""
        self.leaving.drain(grace_s, self.in_flight.wait_for_none)
