"""What one process of the service holds, and when it begins and ends."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from typing import TYPE_CHECKING

from enlight_common.errors import EnlightError, ShuttingDown, Unavailable
from enlight_common.quiet import quieten

from dreambooth_api.inference.admission import Admission
from dreambooth_api.models.bases import resolve_base
from dreambooth_api.models.store import open_store
from dreambooth_api.run_counts import RunCounts
from dreambooth_api.settings import ServiceSettings
from dreambooth_api.training.checkpoint_store import SharedCheckpoints
from dreambooth_api.training.checkpoint_store import sweep as sweep_checkpoints
from dreambooth_api.training.runs import Trainings

if TYPE_CHECKING:
    from dreambooth_api.inference.engine import Engine

log = logging.getLogger(__name__)

#: A started process knows its base model within this time: SD 1.5 from a disk cache takes some 10 s.
_LOADING_RETRY_S = 5.0
#: After a failed load, say a hub that cannot be reached, it is tried again.
_LOAD_AGAIN_S = 15.0
_SWEEP_EVERY_S = 6 * 3600.0
#: torch's name for the folder of compiled code.
_COMPILED_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
#: Drawings that the end of the grace time stops have this long to notice and be answered.
_LAST_STEP_S = 3.0


class Service:
    """The parts behind the routes. ``start`` it once; ``drain`` it before the process leaves."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.base = resolve_base(settings.base_model)
        self.store = open_store(settings.store_url, settings.cache_folder, settings.cache_max_bytes)
        self.trainings = Trainings(
            settings.data_dir,
            self.store,
            settings.instance_name,
            device=settings.device,
            keep_unfinished_bytes=settings.unfinished_max_gb * 10**9,
            checkpoints=SharedCheckpoints(
                settings.store_url, self.store.catalog.objects, always=settings.checkpoint_store
            ),
            spare=settings.spare_trainer,
            policy=settings.training_policy,
        )
        self.run_counts = RunCounts(self.trainings)
        #: A quarter of the threads at most wait for pictures.
        self.drawings = Admission(settings.threads // 4, self.trainings.sharing.pictures_waiting)
        self._engine: Engine | None = None
        self._entering = threading.Lock()
        self._not_ready = "the base model is being loaded"
        self._draining = threading.Event()
        self._stopping = threading.Event()

    def start(self) -> None:
        """Load the base model in the background, so that ``/healthz`` answers meanwhile."""
        threading.Thread(target=self._load, name="load", daemon=True).start()
        threading.Thread(target=self._sweep, name="sweep", daemon=True).start()

    def _sweep(self) -> None:
        """Clear the object store of what uploads that were cut short left there, now and again and again."""
        while True:
            try:
                swept = self.store.catalog.sweep()
                runs = sweep_checkpoints(self.store.catalog.objects)
            except EnlightError as error:
                log.warning("the object store was not swept: %s", error.detail)
            else:
                told = {"models_cut_short": swept, "runs_abandoned": runs}
                log.info("the object store was swept", extra=told)
            if self._draining.wait(_SWEEP_EVERY_S):
                return

    def _load(self) -> None:
        while not self._draining.is_set():
            try:
                self._enter(self._loaded_engine())
                break
            except Exception as error:
                log.exception("the base model could not be loaded")
                self._not_ready = f"the base model could not be loaded ({type(error).__name__}); see the log"
            self._draining.wait(_LOAD_AGAIN_S)
        else:
            return
        try:
            self.trainings.prepare()
        except Exception:
            log.exception("no spare trainer is kept")

    def _enter(self, engine: Engine) -> None:
        """Draw with it from now on, unless the service has left while it was loaded."""
        with self._entering:
            if not self._stopping.is_set():
                self._engine = engine
                return
        engine.close()

    def _loaded_engine(self) -> Engine:
        settings, device = self.settings, self.settings.device
        compiled = (settings.data_dir / "compiled").resolve()
        if settings.compile_unet != "off":
            # Where it outlives a restart; an operator's own place counts. Before the imports, by which torch
            # chooses one itself.
            os.environ.setdefault(_COMPILED_FOLDER, str(compiled))
        # torch and diffusers take seconds to import, which no request should wait for.
        import diffusers
        import transformers

        from dreambooth_api.inference.engine import Engine, EngineLimits

        quieten(diffusers.logging, transformers.logging)
        limits = EngineLimits.for_base(
            self.base, device, settings.model_memory_bytes, settings.batch_memory_share
        )
        figures = settings.data_dir / "batch-sizes"
        engine = Engine(
            self.base,
            self.store,
            device,
            limits=limits,
            figures_folder=figures,
            compile_unet=settings.compile_unet,
        )
        started = time.monotonic()
        engine.load(self._compiling)
        if engine.compiling_failed and os.environ.get(_COMPILED_FOLDER) == str(compiled):
            # A compiler that was killed at it may have left half a file, which would fail at every start.
            shutil.rmtree(compiled, ignore_errors=True)
        seconds = round(time.monotonic() - started, 2)
        log.info(
            "the base model is loaded", extra={"base": self.base.name, "device": device, "seconds": seconds}
        )
        return engine

    def _compiling(self) -> None:
        self._not_ready = "the base model is being compiled, which takes minutes the first time"
        log.info(self._not_ready)

    @property
    def ready(self) -> bool | str:
        """True, or why the service takes no drawings."""
        if self._draining.is_set():
            return "the service is shutting down"
        return True if self._engine is not None else self._not_ready

    @property
    def loaded_engine(self) -> Engine | None:
        """The engine, or None while the base model is not in memory yet."""
        return self._engine

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            Unavailable: the base model is not in memory yet.
        """
        if self._engine is None:
            raise Unavailable(self._not_ready, retry_after=_LOADING_RETRY_S)
        return self._engine

    def check_open(self) -> None:
        """Refuse new work once the service is leaving.

        Raises:
            ShuttingDown: it is.
        """
        if self._draining.is_set():
            raise ShuttingDown("the service is shutting down")

    @property
    def draining(self) -> bool:
        """Whether no new work is taken, because the service is leaving."""
        return self._draining.is_set()

    @property
    def stopping(self) -> bool:
        """Whether the grace time is over and what still runs has to stop."""
        return self._stopping.is_set()

    def drain(self, grace_s: float) -> None:
        """Take no new work, checkpoint the training, and give what is being drawn *grace_s* seconds."""
        if self._draining.is_set():
            return
        deadline = time.monotonic() + grace_s
        self._draining.set()
        log.info("draining", extra={"grace_s": grace_s})
        self.trainings.shutdown(grace_s)
        while self.drawings.busy and time.monotonic() < deadline:
            time.sleep(0.05)
        self._stopping.set()
        deadline = time.monotonic() + _LAST_STEP_S
        while self.drawings.busy and time.monotonic() < deadline:
            time.sleep(0.05)
        with self._entering:
            engine = self._engine
        if engine is not None:
            engine.close()
