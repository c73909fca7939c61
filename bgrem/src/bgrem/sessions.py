"""Models in memory: loaded once each, the least recently used given up when there are too many."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from enlight_common.errors import EnlightError, InternalError, Unavailable
from enlight_common.fetching import Fetches
from enlight_common.queue import Stop, WorkQueue

from bgrem.models import Model
from bgrem.runtimes import Array, Network, Precision, Runtime, Wanted, runtimes_for

log = logging.getLogger(__name__)

#: Networks of rembg's classes are here, by the attribute's name.
_NETWORKS = {"sam": ("encoder", "decoder")}


def _never() -> bool:
    return False


class Turns:
    """A network that takes its turn: pictures are prepared in many threads, and one computes.

    rembg's `predict` calls it in the middle of its own work, in the thread that `stop_by` was called in.
    """

    _caller = threading.local()

    def __init__(self, network: Network, queue: WorkQueue) -> None:
        self._network = network
        self._queue = queue

    @classmethod
    def stop_by(cls, stop: Stop) -> None:
        """What this thread runs from now on is given up when *stop* says so."""
        cls._caller.stop = stop

    def get_inputs(self) -> list[Any]:
        """The network's inputs."""
        return self._network.get_inputs()

    def run(self, names: Sequence[str] | None, inputs: Mapping[str, Array]) -> list[Array]:
        """The network's outputs. Raises Overloaded, Canceled."""
        stop: Stop = getattr(self._caller, "stop", _never)
        return self._queue.run(lambda _: self._network.run(names, inputs), units=1, stop=stop)


class _MovedOn(Unavailable):
    """The model's runtime failed, and it is run in the next from now on."""


class Sessions:
    """rembg's sessions, whose networks run in the first of *runtimes* that can, one picture at a time.

    Beside the model *pinned*, which is never given up, *limit* are kept, one in two precisions counted twice.
    """

    def __init__(
        self,
        runtimes: Sequence[Runtime],
        queue: WorkQueue,
        weights_dir: Path,
        *,
        limit: int,
        pinned: str | None = None,
    ) -> None:
        self.weights_dir = weights_dir
        self.fetches = Fetches()
        self.loads = 0
        self.evictions = 0
        self._runtimes = list(runtimes)
        self._failed_runtimes: dict[str, int] = {}
        self._limit = limit
        self._pinned = pinned
        self._queue = queue
        self._sessions: OrderedDict[tuple[str, Precision], Any] = OrderedDict()
        self._loading = threading.Lock()
        self._lock = threading.Lock()

    @property
    def loaded(self) -> list[tuple[str, Precision]]:
        """What is in memory, the least recently used first."""
        with self._lock:
            return list(self._sessions)

    def runtime_of(self, name: str) -> Runtime:
        """What the model of this name runs in."""
        able = runtimes_for(name, self._runtimes)
        return able[self._failed_runtimes.get(name, 0)]

    def prepare(
        self, model: Model, wanted: Wanted, stop: Stop = _never, *, patient: bool = False
    ) -> tuple[Precision, ...]:
        """Load *model*, and say in which precisions its masks are to be tried, the first of which is loaded.

        Raises InvalidField(precision), and as `Model.obtain`.
        """
        while True:
            tried = self.runtime_of(model.name).tried(model.name, wanted)
            try:
                self.session(model, tried[0], stop, patient=patient)
                return tried
            except _MovedOn:
                continue

    def session(
        self, model: Model, precision: Precision, stop: Stop = _never, *, patient: bool = False
    ) -> Any:
        """rembg's session for *model*, loaded if it is not. It stays usable when it is given up meanwhile.

        Raises as `Model.obtain`; Unavailable where its runtime just failed, InternalError where all did.
        """
        key = (model.name, precision)
        if (session := self._known(key)) is not None:
            return session
        self.fetches.check_failed(model.name)
        paths = model.obtain(self.weights_dir, self.fetches, stop, patient=patient)
        # One at a time: loading takes all cores, and a second request for it finds it loaded.
        with self._loading:
            if (session := self._known(key)) is not None:
                return session
            started = time.monotonic()
            session = self._open(model, paths, precision)
            seconds = round(time.monotonic() - started, 2)
            log.info("model loaded", extra={"model": model.name, "precision": precision, "seconds": seconds})
            self._keep(key, session)
        return session

    def _known(self, key: tuple[str, Precision]) -> Any:
        with self._lock:
            if key in self._sessions:
                self._sessions.move_to_end(key)
            return self._sessions.get(key)

    def _keep(self, key: tuple[str, Precision], session: Any) -> None:
        with self._lock:
            self.loads += 1
            self._sessions[key] = session
            others = [known for known in self._sessions if known[0] != self._pinned]
            for known in others[: max(0, len(others) - self._limit)]:
                del self._sessions[known]
                self.evictions += 1

    def _open(self, model: Model, paths: list[Path], precision: Precision) -> Any:
        """rembg's session around networks of ours: its constructor would load them with ONNX Runtime."""
        runtime = self.runtime_of(model.name)
        session: Any = object.__new__(model.session_class)
        session.model_name = model.name
        try:
            for attribute, path in zip(_NETWORKS.get(model.name, ("inner_session",)), paths, strict=True):
                network = runtime.open(path, precision, self.weights_dir / "tensorrt")
                setattr(session, attribute, Turns(network, self._queue))
        except Exception as error:
            self._move_on(model, runtime, error)
            raise
        return session

    def _move_on(self, model: Model, runtime: Runtime, error: Exception) -> None:
        """Let the model run in the next runtime from now on; raises."""
        log.warning(
            "%s cannot be loaded in %s on %s: %s",
            model.name,
            runtime.name,
            runtime.device,
            error,
            exc_info=error,
        )
        failed = self._failed_runtimes.get(model.name, 0) + 1
        if failed < len(runtimes_for(model.name, self._runtimes)):
            self._failed_runtimes[model.name] = failed
            raise _MovedOn(f"{model.name} is being moved to another runtime", retry_after=1.0) from error
        failure: EnlightError = InternalError(f"the file of {model.name} cannot be loaded; see the log")
        self.fetches.remember(model.name, failure)
        raise failure from error
