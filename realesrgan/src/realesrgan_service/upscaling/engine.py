"""The networks in memory: loaded when first asked for, a few at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

import torch
from enlight_common.errors import InvalidField
from enlight_common.memory import memory_bounded
from enlight_common.queue import Stop

from realesrgan_service.models.catalog import Catalog, ModelFile
from realesrgan_service.models.loading import blended, read_weights, upscaler_from
from realesrgan_service.models.published import GENERAL, GENERAL_NOISY
from realesrgan_service.upscaling.network import Network, Precision, network_of

log = logging.getLogger(__name__)

_FIELD = "model_name"
#: Blends of the general pair are told apart by this step of `denoise_strength`.
_STRENGTH_DECIMALS = 2

Key = tuple[tuple[tuple[int, int, int], ...], float | None]


@dataclass(frozen=True)
class Choice:
    """A network by its files: one, or the general pair with the share of its first."""

    files: tuple[ModelFile, ...]
    strength: float | None

    @property
    def name(self) -> str:
        """Of the model that was asked for."""
        return self.files[0].name

    @property
    def key(self) -> Key:
        """Changes when a file does."""
        return tuple(file.version for file in self.files), self.strength


class Engine:
    """Networks by model. `network` is used from one thread, the rest from any."""

    def __init__(self, catalog: Catalog, device: str, precision: Precision | None, max_loaded: int) -> None:
        """*precision*: None for the fastest on *device*. *max_loaded*: networks kept in memory."""
        self._catalog = catalog
        self._device = device
        self._precision = precision
        self._max_loaded = max_loaded
        self._networks: OrderedDict[Key, tuple[str, Network]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def loaded(self) -> dict[str, Network]:
        """The networks in memory by the name of their model, the one used last at the end."""
        with self._lock:
            return dict(self._networks.values())

    def choose(self, model: ModelFile, denoise_strength: float | None, stop: Stop) -> Choice:
        """What *model* is made of, from any thread; the other half of the general pair may be fetched.

        *denoise_strength* blends the general pair, and is for its model only: 1 is the model as it is, 0 the
        one that keeps noise. Raises as `Catalog.find`.
        """
        strength = None if denoise_strength is None else round(denoise_strength, _STRENGTH_DECIMALS)
        if strength is None or strength == 1 or model.name != GENERAL:
            return Choice((model,), None)
        return Choice((model, self._catalog.find(GENERAL_NOISY, "denoise_strength", stop=stop)), strength)

    def at_hand(self, choice: Choice) -> Network | None:
        """The network where it is in memory, from any thread."""
        with self._lock:
            if choice.key not in self._networks:
                return None
            self._networks.move_to_end(choice.key)
            return self._networks[choice.key][1]

    def network(self, choice: Choice) -> Network:
        """The network, loaded if it is not in memory.

        Raises:
            InvalidField: a file is no upscaler, or the pair is none.
            OutOfMemory: there is too little memory for it.
        """
        network = self.at_hand(choice)
        if network is not None:
            return network
        with memory_bounded(torch, f"{choice.name} was not loaded"):
            network = self._load(choice)
        with self._lock:
            self._networks[choice.key] = (choice.name, network)
            while len(self._networks) > self._max_loaded:
                self._networks.popitem(last=False)
        return network

    def _load(self, choice: Choice) -> Network:
        started = time.monotonic()
        try:
            states = [read_weights(file.path, _FIELD) for file in choice.files]
        except FileNotFoundError:
            raise InvalidField(_FIELD, "names a file that is gone") from None
        state = states[0] if choice.strength is None else blended(states[0], states[1], choice.strength)
        network = network_of(upscaler_from(state, _FIELD), self._device, self._precision)
        log.info(
            "an upscaler is loaded",
            extra={
                "model": choice.name,
                "engine": network.engine,
                "precision": network.precision,
                "us_per_pixel": round(network.seconds_per_pixel * 1e6, 2),
                "seconds": round(time.monotonic() - started, 2),
            },
        )
        return network
