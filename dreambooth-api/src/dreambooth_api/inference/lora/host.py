"""Adapters in the host's memory: parsed once, longest not used leave first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future

import torch

from dreambooth_api.inference.lora.weights import AdapterWeights


class HostAdapters:
    """An LRU of at most *max_bytes*, for any number of threads.

    For a CUDA *device* what it holds is pinned, so that copying to the GPU takes nobody's time.
    """

    def __init__(self, max_bytes: int, device: torch.device) -> None:
        self._max_bytes = max_bytes
        self._pin = device.type == "cuda"
        self._lock = threading.Lock()
        self._held: OrderedDict[Hashable, AdapterWeights] = OrderedDict()
        self._loading: dict[Hashable, Future[AdapterWeights]] = {}
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """What is held, in bytes."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Hashable, load: Callable[[], AdapterWeights]) -> AdapterWeights:
        """The adapter of *key*; *load* is called where it is not held, once for all who ask meanwhile.

        One that alone is larger than the bound is given, but not held. Raises what *load* raises, to
        everyone who waited for it; who asks later loads again.
        """
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                self._held.move_to_end(key)
                return held
            loading = self._loading.get(key)
            mine = loading is None
            if loading is None:
                loading = self._loading[key] = Future()
        if not mine:
            return loading.result()
        try:
            weights = load()
            if self._pin:
                weights = weights.pinned()
        except BaseException as error:
            with self._lock:
                self._done(key, loading)
            loading.set_exception(error)
            raise
        with self._lock:
            if self._done(key, loading):
                self._hold(key, weights)
        loading.set_result(weights)
        return weights

    def forget(self, key: Hashable) -> None:
        """Hold it no longer; who is loading it gets it still, but it is not held then."""
        with self._lock:
            self._loading.pop(key, None)
            left = self._held.pop(key, None)
            if left is not None:
                self._bytes -= left.bytes

    def clear(self) -> None:
        """Hold nothing any longer, nor what is being loaded."""
        with self._lock:
            self._loading.clear()
            self._held.clear()
            self._bytes = 0

    def _done(self, key: Hashable, loading: Future[AdapterWeights]) -> bool:
        """End a loading; whether nobody forgot the key meanwhile."""
        if self._loading.get(key) is not loading:
            return False
        del self._loading[key]
        return True

    def _hold(self, key: Hashable, weights: AdapterWeights) -> None:
        if weights.bytes > self._max_bytes:
            return
        self._held[key] = weights
        self._bytes += weights.bytes
        while self._bytes > self._max_bytes:
            _, oldest = self._held.popitem(last=False)
            self._bytes -= oldest.bytes
