"""Models in memory: loaded once each, the least recently used given up when there are too many."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from enlight_common.errors import Unavailable
from enlight_common.queue import Stop, WorkQueue

from bgrem.models import Model
from bgrem.runtimes import Array, Network, Precision, Runtime

log = logging.getLogger(__name__)

#: A request waits so long for weights that are being fetched; the fetching goes on without it.
_FETCH_WAIT_S = 20.0
_FETCHERS = 2
#: Networks of rembg's classes are here, by the attribute's name.
_NETWORKS = {"sam": ("encoder", "decoder")}


class Turns:
    """A network that takes its turn: pictures are prepared in many threads, and one computes.

    rembg's `predict` calls it in the middle of its own work, in the thread that `in_turn` was entered in.
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
        stop: Stop = getattr(self._caller, "stop", lambda: False)
        return self._queue.run(lambda _: self._network.run(names, inputs), units=1, stop=stop)


class Sessions:
    """rembg's sessions, whose networks run in *runtime*, one picture at a time through *queue*."""

    def __init__(self, runtime: Runtime, queue: WorkQueue, weights_dir: Path, *, limit: int) -> None:
        self.runtime = runtime
        self.weights_dir = weights_dir
        self.loads = 0
        self.evictions = 0
        self._limit = limit
        self._queue = queue
        self._sessions: OrderedDict[tuple[str, Precision], Any] = OrderedDict()
        self._loading = threading.Lock()
        self._lock = threading.Lock()
        self._fetches: dict[str, concurrent.futures.Future[list[Path]]] = {}
        self._fetchers = concurrent.futures.ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch")

    @property
    def loaded(self) -> list[tuple[str, Precision]]:
        """What is in memory, the least recently used first."""
        with self._lock:
            return list(self._sessions)

    def session(self, model: Model, precision: Precision, *, wait_s: float | None = _FETCH_WAIT_S) -> Any:
        """rembg's session for *model*, loaded if it is not. It stays usable when it is given up meanwhile.

        Raises:
            Unavailable: its weights are still being fetched after *wait_s* seconds, or cannot be; None waits.
            StoreCorrupt, StorageFull: fetching them went wrong.
        """
        key = (model.name, precision)
        if (session := self._known(key)) is not None:
            return session
        paths = self._fetched(model, wait_s)
        # One at a time: loading takes all cores, and a second request for it finds it loaded.
        with self._loading:
            if (session := self._known(key)) is not None:
                return session
            started = time.monotonic()
            session = _open(model, paths, self._opener(model, precision))
            seconds = round(time.monotonic() - started, 2)
            log.info("model loaded", extra={"model": model.name, "precision": precision, "seconds": seconds})
            with self._lock:
                self.loads += 1
                self._sessions[key] = session
                while len(self._sessions) > self._limit:
                    self._sessions.popitem(last=False)
                    self.evictions += 1
        return session

    def _known(self, key: tuple[str, Precision]) -> Any:
        with self._lock:
            if key in self._sessions:
                self._sessions.move_to_end(key)
            return self._sessions.get(key)

    def _opener(self, model: Model, precision: Precision) -> Callable[[Path], Turns]:
        runtime = self.runtime
        if runtime.name == "openvino" and model.name in _NETWORKS:
            # Several inputs of changing shapes, for which OpenVINO is given no model of one output.
            runtime = Runtime("onnxruntime", runtime.device, ("fp32",), runtime.threads)
        cache_dir = self.weights_dir / "tensorrt"
        return lambda path: Turns(runtime.open(path, precision, cache_dir), self._queue)

    def _fetched(self, model: Model, wait_s: float | None) -> list[Path]:
        with self._lock:
            future = self._fetches.get(model.name)
            if future is None:
                future = self._fetchers.submit(model.fetch, self.weights_dir)
                self._fetches[model.name] = future
        try:
            return future.result(timeout=wait_s)
        except concurrent.futures.TimeoutError:
            raise Unavailable("the model's weights are being fetched", retry_after=10.0) from None
        finally:
            if future.done():
                # What failed is tried again by the next request.
                with self._lock:
                    if self._fetches.get(model.name) is future:
                        del self._fetches[model.name]


def _open(model: Model, paths: list[Path], open_network: Callable[[Path], Turns]) -> Any:
    """rembg's session around networks of ours: its constructor would load them with ONNX Runtime."""
    session: Any = object.__new__(model.session_class)
    session.model_name = model.name
    for attribute, path in zip(_NETWORKS.get(model.name, ("inner_session",)), paths, strict=True):
        setattr(session, attribute, open_network(path))
    return session
