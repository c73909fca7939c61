"""What one process of the service holds, and when it begins and ends."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

from enlight_common.cores import available_cores, core_quota
from enlight_common.errors import EnlightError, ShuttingDown, Unavailable
from enlight_common.queue import Stop, WorkQueue
from enlight_common.settings import SettingsError
from PIL import Image

from bgrem.certainty import is_sure
from bgrem.cutting import check_refinements, cut_out
from bgrem.matting import Matter, warm_refinements
from bgrem.models import Models
from bgrem.places import Places
from bgrem.request import CutOptions
from bgrem.runtimes import Precision, check_device, find_runtimes
from bgrem.sessions import Sessions, Turns
from bgrem.settings import ServiceSettings

log = logging.getLogger(__name__)

_LOADING_RETRY_S = 5.0
#: After a failed load, say weights that cannot be fetched, it is tried again.
_LOAD_AGAIN_S = 15.0
_LAST_PICTURE_S = 3.0


def check_settings(settings: ServiceSettings) -> None:
    """Raise SettingsError for what can only be told with the libraries at hand."""
    if settings.default_model not in Models.of_rembg().names:
        raise SettingsError("DEFAULT_MODEL: must be one of the models of the installed rembg")
    check_device(settings.device)


class Cutting:
    """The pictures of one request on their way."""

    def __init__(
        self, sessions: Sessions, options: CutOptions, tried: tuple[Precision, ...], stop: Stop
    ) -> None:
        self._sessions = sessions
        self._options = options
        self._tried = tried
        self._stop = stop
        self._matter = Matter(options.matting, stop) if options.matting and options.solves else None
        self._used: set[Precision] = set()

    @property
    def precision(self) -> Precision:
        """The lowest that a mask of the answer was computed in."""
        return next((one for one in self._tried if one in self._used), self._tried[-1])

    def cut(self, photo: Image.Image, field: str) -> Image.Image:
        """`cut_out`, given up with Canceled when `stop` says so before a network's turn or while matting."""
        return cut_out(photo, self._masks(photo), self._options, self._matter, field)

    def _masks(self, photo: Image.Image) -> list[Image.Image]:
        Turns.stop_by(self._stop)
        for precision in self._tried:
            session = self._sessions.session(self._options.model, precision, self._stop)
            masks: list[Image.Image] = session.predict(photo)
            if precision == self._tried[-1] or all(is_sure(mask) for mask in masks):
                break
        self._used.add(precision)
        return masks


class Cutter:
    """Cuts pictures out, once there are models and something to run them in."""

    def __init__(self, models: Models, sessions: Sessions) -> None:
        self.models = models
        self.sessions = sessions

    def prepare(self, options: CutOptions, stop: Stop) -> tuple[Precision, ...]:
        """Load what *options* ask for; raises as `Sessions.prepare` and where matting is not there yet.

        May wait for weights: to be called before the request takes a hand.
        """
        check_refinements(options)
        return self.sessions.prepare(options.model, options.precision, stop)


class Service:
    """The parts behind the routes. ``start`` it once; ``drain`` it before the process leaves."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        # One request more than cores: while one computes, the others decode and encode.
        working = min((settings.compute_threads or available_cores()) + 1, settings.threads // 4)
        waiting = settings.threads // 2 - working
        self.places = Places(working=working, waiting=waiting)
        # numba's threads allow one at a time, and so does memory. It takes so much longer than all else that
        # it may not fill the places of the others.
        self.mattings = Places(working=1, waiting=max(1, waiting // 4), what="requests for alpha_matting")
        self.inferences = WorkQueue(limit=working, what="pictures")
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
            except EnlightError as error:
                log.warning("the model cannot be loaded: %s", error.detail)
                self._not_ready = f"the model cannot be loaded: {error.detail}"
            except Exception as error:
                log.exception("the model could not be loaded")
                self._not_ready = f"the model could not be loaded ({type(error).__name__}); see the log"
            self._draining.wait(_LOAD_AGAIN_S)
        if not self._draining.is_set():
            warm_refinements()

    def _loaded(self) -> Cutter:
        settings = self.settings
        models = Models.of_rembg()
        default = models.named(settings.default_model, "DEFAULT_MODEL")
        # Without a quota the runtimes know best: of two threads of a core they use one.
        runtimes = find_runtimes(settings.device, threads=settings.compute_threads or core_quota())
        sessions = Sessions(
            runtimes,
            self.inferences,
            settings.weights_dir,
            limit=settings.max_loaded_models,
            pinned=default.name,
        )
        tried = sessions.prepare(default, "auto", lambda: self._draining.is_set(), patient=True)
        for precision in tried[1:]:
            sessions.session(default, precision)
        runtime = sessions.runtime_of(default.name)
        log.info("ready", extra={"model": default.name, "runtime": runtime.name, "device": runtime.device})
        return Cutter(models, sessions)

    @contextlib.contextmanager
    def turn(self, options: CutOptions, stop: Stop) -> Iterator[None]:
        """Wait for a request's turn to work. Raises Canceled, Overloaded where too many wait for matting."""
        with contextlib.ExitStack() as turns:
            if options.solves:
                turns.enter_context(self.mattings.enter())
                turns.enter_context(self.mattings.work(stop))
            turns.enter_context(self.places.work(stop))
            yield

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
