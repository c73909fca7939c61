"""What one process of the service holds, and when it begins and ends."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from types import ModuleType

from enlight_common.cores import available_cores, core_quota
from enlight_common.leaving import Leaving
from enlight_common.loading import Loaded
from enlight_common.queue import Stop, WorkQueue
from enlight_common.settings import SettingsError
from PIL import Image

from bgrem.certainty import is_sure
from bgrem.cutting import cut_out
from bgrem.matting import Matter, refinements
from bgrem.models import Models
from bgrem.places import Places
from bgrem.request import CutOptions
from bgrem.runtimes import Precision, check_device, find_runtimes
from bgrem.sessions import Sessions, Turns
from bgrem.settings import ServiceSettings

log = logging.getLogger(__name__)


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
    """Cuts pictures out."""

    def __init__(self, models: Models, sessions: Sessions, refinements: Loaded[ModuleType]) -> None:
        self.models = models
        self.sessions = sessions
        self._refinements = refinements

    def prepare(self, options: CutOptions, stop: Stop) -> tuple[Precision, ...]:
        """Load what *options* ask for; raises as `Sessions.prepare`, Unavailable where matting is not there.

        May wait for weights: to be called before the request takes a hand.
        """
        if options.refines:
            self._refinements.get()
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
        self.leaving = Leaving()
        self.cutter = Loaded("the model", self._load, self.leaving)
        self.refinements = Loaded("what alpha_matting and post_process_mask need", refinements, self.leaving)

    def start(self) -> None:
        """Load the default model in the background, so that ``/healthz`` answers meanwhile."""
        self.cutter.start()

    def _load(self) -> Cutter:
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
        tried = sessions.prepare(default, "auto", lambda: self.leaving.draining, patient=True)
        for precision in tried[1:]:
            sessions.session(default, precision)
        runtime = sessions.runtime_of(default.name)
        log.info("ready", extra={"model": default.name, "runtime": runtime.name, "device": runtime.device})
        # Not before: compiling it would take the cores from what every request needs.
        self.refinements.start()
        return Cutter(models, sessions, self.refinements)

    @contextlib.contextmanager
    def turn(self, options: CutOptions, stop: Stop) -> Iterator[None]:
        """Wait for a request's turn to work. Raises Canceled, Overloaded where too many wait for matting."""
        with contextlib.ExitStack() as turns:
            if options.solves:
                turns.enter_context(self.mattings.enter())
                turns.enter_context(self.mattings.work(stop))
            turns.enter_context(self.places.work(stop))
            yield

    def drain(self, grace_s: float) -> None:
        """Take no new work, and give what is being done *grace_s* seconds."""
        self.leaving.drain(grace_s, self.places.in_flight.wait_for_none)
