"""Brings upscalers into memory, once for all who wait, and keeps the ones used last."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from enlight_common.errors import Unavailable
from enlight_common.queue import Canceled, Stop, WorkQueue

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
    """One attempt to load a model."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: Exception | None = None
        self.ended_at = 0.0


class LoadedEngines:
    """Engines by their upscalers' names, `limit` of them at most: the least recently used one leaves."""

    def __init__(self, queue: WorkQueue, device: str, limit: int) -> None:
        """They are loaded in the thread of *queue*, so that torch has one pool of threads."""
        self._queue, self._device, self._limit = queue, device, limit
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
            Canceled: *stop* said yes while waiting.
        """
        deadline = time.monotonic() + _PATIENCE_S
        with self._lock:
            engine = self._used(upscaler.name)
            if engine is not None:
                return engine
            attempt = self._attempt(upscaler)
        while not attempt.done.wait(_LOOK_S):
            if stop():
                raise Canceled
            if time.monotonic() > deadline:
                raise ModelUnavailable(f"{upscaler.name} is being fetched", retry_after=_LOAD_AGAIN_S)
        if attempt.error is not None:
            raise ModelUnavailable(
                f"{upscaler.name} could not be loaded ({type(attempt.error).__name__}): it is not on this "
                "machine, and no model hub can be reached or it has no safetensors of it; see the log",
                retry_after=_LOAD_AGAIN_S,
            )
        with self._lock:
            engine = self._used(upscaler.name)
        if engine is None:
            raise ModelUnavailable(f"{upscaler.name} made room for another model", retry_after=1.0)
        return engine

    def _used(self, name: str) -> Engine | None:
        engine = self._engines.get(name)
        if engine is not None:
            self._engines.move_to_end(name)
        return engine

    def _attempt(self, upscaler: Upscaler) -> _Loading:
        """The attempt that is going on or failed just now, or a new one."""
        attempt = self._attempts.get(upscaler.name)
        if attempt is not None:
            going_on = not attempt.done.is_set()
            if going_on or (attempt.error and time.monotonic() - attempt.ended_at < _LOAD_AGAIN_S):
                return attempt
        attempt = self._attempts[upscaler.name] = _Loading()
        threading.Thread(target=self._load, args=(upscaler, attempt), name="load", daemon=True).start()
        return attempt

    def _load(self, upscaler: Upscaler, attempt: _Loading) -> None:
        started = time.monotonic()
        try:
            folder = fetch(upscaler)
            self._queue.run(lambda _stop: self._keep(upscaler, folder), units=0, stop=lambda: False)
            seconds = round(time.monotonic() - started, 2)
            log.info(
                "a model is loaded",
                extra={"model": upscaler.name, "device": self._device, "seconds": seconds},
            )
        except Exception as error:
            log.exception("%s could not be loaded", upscaler.name)
            attempt.error = error
        finally:
            attempt.ended_at = time.monotonic()
            attempt.done.set()

    def _keep(self, upscaler: Upscaler, folder: Path) -> None:
        with self._lock:
            while len(self._engines) >= self._limit:
                name, _ = self._engines.popitem(last=False)
                log.info("a model made room", extra={"model": name})
        engine = _engine_class(upscaler)(upscaler, folder, self._device)
        with self._lock:
            self._engines[upscaler.name] = engine


def fetch(upscaler: Upscaler) -> Path:
    """The folder with the upscaler's files, downloaded from the hub where they are not on the disk.

    Only configuration and safetensors are. Raises OSError and what the hub's library raises.
    """
    if upscaler.is_folder:
        return Path(upscaler.source)
    if upscaler.engine == "sd":
        from diffusers import StableDiffusionUpscalePipeline

        return Path(
            StableDiffusionUpscalePipeline.download(
                upscaler.source, variant=upscaler.variant, use_safetensors=True
            )
        )
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(upscaler.source, allow_patterns=["*.json", "*.safetensors"]))


def _engine_class(upscaler: Upscaler) -> Callable[[Upscaler, Path, str], Engine]:
    # torch and diffusers take seconds to import, which no request should wait for.
    from upsampler.quiet import quieten_libraries

    quieten_libraries()
    if upscaler.engine == "sd":
        from upsampler.diffusion import DiffusionEngine

        return DiffusionEngine
    from upsampler.swin2sr import Swin2SREngine

    return Swin2SREngine
