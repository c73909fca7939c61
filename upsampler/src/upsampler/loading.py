"""Brings upscalers into memory, once for all who wait, and keeps the ones used last."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from enlight_common.errors import EnlightError, Overloaded, Unavailable
from enlight_common.memory import memory_bounded
from enlight_common.queue import Canceled, Stop, WorkQueue
from enlight_common.quiet import quieten
from safetensors import SafetensorError

from upsampler import hub
from upsampler.enlarging import Engine
from upsampler.models import Upscaler

log = logging.getLogger(__name__)

#: A request waits this long for a model. One on the disk takes seconds; downloads go on without it.
_PATIENCE_S = 30.0
#: After a failure, say a hub that cannot be reached, nobody waits again so soon.
_LOAD_AGAIN_S = 15.0
_LOOK_S = 0.25


class ModelUnavailable(Unavailable):
    type = "model-unavailable"
    title = "The model cannot be loaded now"


class _Loading:
    """One attempt to load a model. `state` reads on from the model's name."""

    def __init__(self) -> None:
        self.state = "is looked for"
        self.done = threading.Event()
        self.engine: Engine | None = None
        self.error: EnlightError | None = None
        self.ended_at = 0.0

    @property
    def counts(self) -> bool:
        """Whether it still goes on, or failed so recently that nobody tries again."""
        if not self.done.is_set():
            return True
        # A full queue says nothing about the model.
        failed = self.error is not None and not isinstance(self.error, Overloaded)
        return failed and time.monotonic() - self.ended_at < _LOAD_AGAIN_S


class LoadedEngines:
    """Engines by their upscalers' names, `limit` of them at most: the least recently used one leaves."""

    def __init__(self, queue: WorkQueue, device: str, limit: int, hub_folder: Path, keep: str) -> None:
        """They are loaded in the thread of *queue*, so that torch has one pool of threads.

        What comes from the hub is put into *hub_folder*. The upscaler *keep* does not make room for another
        unless the limit is 1.
        """
        self._queue, self._device, self._limit = queue, device, limit
        self._hub_folder, self._kept = hub_folder, keep if limit > 1 else None
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._attempts: dict[str, _Loading] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Of what is in memory."""
        with self._lock:
            return list(self._engines)

    def get(self, upscaler: Upscaler, stop: Stop = lambda: False) -> Engine:
        """The engine, loaded if it is not, from the hub if it is not on the disk.

        Raises:
            ModelUnavailable: it cannot be fetched or loaded, or that takes long and goes on meanwhile.
            Overloaded: too many wait already.
            OutOfMemory: there is too little memory for it.
            Canceled: *stop* said yes while waiting.
        """
        deadline = time.monotonic() + _PATIENCE_S
        with self._lock:
            engine = self._engines.get(upscaler.name)
            if engine is not None:
                self._engines.move_to_end(upscaler.name)
                return engine
            attempt = self._attempt(upscaler)
        while not attempt.done.wait(_LOOK_S):
            if stop():
                raise Canceled
            if time.monotonic() > deadline:
                raise ModelUnavailable(f"{upscaler.name} {attempt.state}", retry_after=_LOAD_AGAIN_S)
        if attempt.engine is None:
            assert attempt.error is not None
            raise copy.copy(attempt.error)
        return attempt.engine

    def _attempt(self, upscaler: Upscaler) -> _Loading:
        """The attempt that is going on or failed just now, or a new one."""
        attempt = self._attempts.get(upscaler.name)
        if attempt is None or not attempt.counts:
            attempt = self._attempts[upscaler.name] = _Loading()
            threading.Thread(target=self._load, args=(upscaler, attempt), name="load", daemon=True).start()
        return attempt

    def _load(self, upscaler: Upscaler, attempt: _Loading) -> None:
        started = time.monotonic()
        try:
            folder = self._folder(upscaler, attempt)
            attempt.state = "is on this machine and waits for its turn to be loaded"
            # No units: what a load takes says nothing about how right the estimates of pictures are.
            attempt.engine = self._queue.run(
                lambda _stop: self._loaded(upscaler, folder, attempt),
                units=0,
                stop=lambda: False,
            )
            log.info(
                "a model is loaded",
                extra={
                    "model": upscaler.name,
                    "revision": hub.revision_of(folder),
                    "device": self._device,
                    "seconds": round(time.monotonic() - started, 2),
                },
            )
        except EnlightError as error:
            log.warning("%s could not be loaded: %s", upscaler.name, error.detail)
            attempt.error = error
        except Exception as error:
            log.exception("%s could not be loaded", upscaler.name)
            attempt.error = _unavailable(upscaler, "could not be loaded; see the log", error)
        finally:
            attempt.ended_at = time.monotonic()
            if attempt.engine is not None:
                # Else it would stay in memory after it made room for another.
                with self._lock:
                    del self._attempts[upscaler.name]
            attempt.done.set()

    def _folder(self, upscaler: Upscaler, attempt: _Loading) -> Path:
        if upscaler.is_folder:
            return Path(upscaler.source)
        attempt.state = "is being fetched"
        try:
            return hub.fetch(upscaler, self._hub_folder)
        except hub.Unverifiable as error:
            words = f"was fetched from the hub and refused: {error.detail}"
            raise _unavailable(upscaler, words, error) from error
        except EnlightError:
            raise
        except Exception as error:
            words = (
                "is not on this machine, and no model hub can be reached or it has no such model; see the log"
            )
            log.warning("%s could not be fetched: %s", upscaler.name, error)
            raise _unavailable(upscaler, words, error) from error

    def _loaded(self, upscaler: Upscaler, folder: Path, attempt: _Loading) -> Engine:
        attempt.state = "is being loaded"
        make = _engine_class(upscaler)
        import torch

        try:
            with memory_bounded(torch, f"{upscaler.name} was not loaded"):
                engine = make(upscaler, folder, self._device)
        except (OSError, ValueError, SafetensorError) as error:
            log.warning("%s in %s cannot be read: %s", upscaler.name, folder, error)
            words = "is on this machine, and its files are damaged or not complete; see the log"
            raise _unavailable(upscaler, words, error) from error
        self._keep(upscaler.name, engine)
        return engine

    def _keep(self, name: str, engine: Engine) -> None:
        """Only what was loaded takes a place, so that a failure costs nobody theirs."""
        with self._lock:
            self._engines[name] = engine
            self._engines.move_to_end(name)
            may_leave = [each for each in self._engines if each not in (name, self._kept)]
            for leaving in may_leave[: max(0, len(self._engines) - self._limit)]:
                del self._engines[leaving]
                log.info("a model made room", extra={"model": leaving})


def _unavailable(upscaler: Upscaler, words: str, error: Exception) -> ModelUnavailable:
    name = type(error).__name__
    return ModelUnavailable(f"{upscaler.name} {words} ({name})", retry_after=_LOAD_AGAIN_S)


def _engine_class(upscaler: Upscaler) -> Callable[[Upscaler, Path, str], Engine]:
    # torch and diffusers take seconds to import, which no request should wait for.
    import diffusers
    import transformers

    quieten(diffusers.logging, transformers.logging)
    if upscaler.engine == "sd":
        from upsampler.diffusion import DiffusionEngine

        return DiffusionEngine
    from upsampler.swin2sr import Swin2SREngine

    return Swin2SREngine
