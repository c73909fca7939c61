"""What one process of the service holds, and when it begins and ends."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enlight_common.errors import EnlightError, InvalidField, ShuttingDown, Unavailable
from enlight_common.images import OutputFormat, encode_image
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

_LOADING_RETRY_S = 5.0
#: After a failed load, say weights that cannot be fetched, it is tried again.
_LOAD_AGAIN_S = 15.0
#: What the end of the grace time stops has this long to notice and be answered.
_LAST_STEP_S = 3.0
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


class Service:
    """The parts behind the routes. ``start`` it once; ``drain`` it before the process leaves."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.catalog = Catalog(settings.models_folder, fetching=settings.fetch_models)
        self.progresses = Progresses()
        # A unit of work is a second by the networks' own estimates.
        self.queue = WorkQueue(limit=settings.threads // 4, what="pictures")
        self.in_flight = InFlight()
        self.pictures = 0
        self.pixels = 0
        self._encoding = Turns(_ENCODED_AT_ONCE)
        self._engine: Engine | None = None
        self._faces: Faces | None = None
        self._not_ready = "the upscaler is being loaded"
        self._draining = threading.Event()
        self._stopping = threading.Event()

    def start(self) -> None:
        """Load the default upscaler in the background, so that ``/healthz`` answers meanwhile."""
        threading.Thread(target=self._load, name="load", daemon=True).start()

    def _load(self) -> None:
        while not self._draining.is_set():
            try:
                convert_default_models(self.settings.weights_dir, self.settings.models_folder)
                self.queue.run(self._make_engine, units=0, stop=self._draining.is_set)
                return
            except EnlightError as error:
                log.error("the upscaler could not be loaded: %s", error.detail)
                self._not_ready = f"the upscaler could not be loaded: {error.detail}"
            except Exception as error:
                log.exception("the upscaler could not be loaded")
                self._not_ready = f"the upscaler could not be loaded ({type(error).__name__}); see the log"
            self._draining.wait(_LOAD_AGAIN_S)

    def _make_engine(self, _stop: Stop) -> None:
        # torch takes seconds to import, which no request should wait for.
        from realesrgan_service.upscaling.engine import Engine
        from realesrgan_service.upscaling.faces import Faces

        settings = self.settings
        precision = None if settings.precision == "auto" else settings.precision
        engine = Engine(self.catalog, settings.device, precision, settings.max_loaded)
        engine.network(self.catalog.find(settings.model))
        self._faces = Faces(settings.weights_dir, settings.device, fetching=settings.fetch_models)
        self._engine = engine

    @property
    def ready(self) -> bool | str:
        """True, or why the service takes no pictures."""
        if self._draining.is_set():
            return "the service is shutting down"
        return True if self._engine is not None else self._not_ready

    @property
    def networks(self) -> dict[str, Network]:
        """The networks in memory by the name of their model."""
        return {} if self._engine is None else self._engine.loaded

    @property
    def stopping(self) -> bool:
        """Whether the grace time is over and what still runs has to stop."""
        return self._stopping.is_set()

    def check_open(self) -> None:
        """Refuse work that cannot be done now.

        Raises:
            ShuttingDown: the service is leaving.
            Unavailable: the upscaler is not in memory yet.
        """
        if self._draining.is_set():
            raise ShuttingDown("the service is shutting down")
        if self._engine is None:
            raise Unavailable(self._not_ready, retry_after=_LOADING_RETRY_S)

    def upscale(self, wish: Wish, request_id: str, stop: Stop) -> Enlarged:
        """Wait for the turn and enlarge.

        Raises:
            InvalidField: the model's file is no upscaler, or what a field asks for is not here.
            TimedOut: it would take, or took, longer than the client's patience.
            Overloaded: too many wait already.
            Canceled: *stop* said yes.
        """
        from realesrgan_service.upscaling.enlarging import enlarge, work_of

        with self.progresses.follow(request_id) as told, wish.patience.limit(stop) as stop_or_late:
            network = self._prepared(wish, stop_or_late)
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
                faces = self._restore_faces(wish, image, stop)
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

    def _prepared(self, wish: Wish, stop: Stop) -> Network:
        engine, faces = self._engine, self._faces
        if engine is None or faces is None:
            raise Unavailable(self._not_ready, retry_after=_LOADING_RETRY_S)
        if wish.face_enhance:
            # In this request's own thread: a download holds up nobody else.
            faces.fetch()

        def load(_stop: Stop) -> Network:
            if wish.face_enhance:
                faces.load()
            return engine.network(wish.model, wish.denoise_strength)

        at_hand = engine.at_hand(wish.model, wish.denoise_strength)
        if at_hand is not None and not wish.face_enhance:
            return at_hand
        # No units: what a load takes says nothing about how right the estimates of pictures are.
        return self.queue.run(load, units=0, stop=stop)

    def _restore_faces(self, wish: Wish, enlarged: Image.Image, stop: Stop) -> int | None:
        if not wish.face_enhance or self._faces is None:
            return None
        return self._faces.enhance(wish.image, enlarged, stop)

    def drain(self, grace_s: float) -> None:
        """Take no new work and give what is in flight *grace_s* seconds."""
        if self._draining.is_set():
            return
        self._draining.set()
        log.info("draining", extra={"grace_s": grace_s})
        if not self.in_flight.wait_for_none(grace_s):
            self._stopping.set()
            self.in_flight.wait_for_none(_LAST_STEP_S)
