"""The networks in memory: loaded when first asked for, a few at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict

from enlight_common.errors import InvalidField

from realesrgan_service.models.catalog import Catalog, ModelFile
from realesrgan_service.models.loading import blended, read_weights, upscaler_from
from realesrgan_service.models.published import GENERAL, GENERAL_NOISY
from realesrgan_service.upscaling.network import Network, Precision, network_of

log = logging.getLogger(__name__)

_FIELD = "model_name"
#: Blends of the general pair are told apart by this step of `denoise_strength`.
_STRENGTH_DECIMALS = 2

Key = tuple[tuple[tuple[int, int, int], ...], float | None]


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

    def at_hand(self, model: ModelFile, denoise_strength: float | None = None) -> Network | None:
        """The network of *model* where it is in memory, from any thread; errors as `network`."""
        _, _, key = self._asked_for(model, denoise_strength)
        with self._lock:
            if key not in self._networks:
                return None
            self._networks.move_to_end(key)
            return self._networks[key][1]

    def network(self, model: ModelFile, denoise_strength: float | None = None) -> Network:
        """The network of *model*, loaded if it is not in memory.

        *denoise_strength* blends the general pair, and is for its model only: 1 is the model as it is, 0 the
        one that keeps noise.

        Raises:
            InvalidField: the file is no upscaler, or the pair is not complete.
        """
        network = self.at_hand(model, denoise_strength)
        if network is not None:
            return network
        models, strength, key = self._asked_for(model, denoise_strength)
        network = self._load(models, strength)
        with self._lock:
            self._networks[key] = (model.name, network)
            while len(self._networks) > self._max_loaded:
                self._networks.popitem(last=False)
        return network

    def _asked_for(
        self, model: ModelFile, denoise_strength: float | None
    ) -> tuple[list[ModelFile], float | None, Key]:
        models = [model]
        strength = None if denoise_strength is None else round(denoise_strength, _STRENGTH_DECIMALS)
        if strength is not None and strength < 1 and model.name == GENERAL:
            models.append(self._catalog.find(GENERAL_NOISY, "denoise_strength"))
        else:
            strength = None
        return models, strength, (tuple(each.version for each in models), strength)

    def _load(self, models: list[ModelFile], strength: float | None) -> Network:
        started = time.monotonic()
        try:
            states = [read_weights(model.path, _FIELD) for model in models]
        except FileNotFoundError:
            raise InvalidField(_FIELD, "names a file that is gone") from None
        state = states[0] if strength is None else blended(states[0], states[1], strength)
        network = network_of(upscaler_from(state, _FIELD), self._device, self._precision)
        log.info(
            "an upscaler is loaded",
            extra={
                "model": models[0].name,
                "engine": network.engine,
                "precision": network.precision,
                "us_per_pixel": round(network.seconds_per_pixel * 1e6, 2),
                "seconds": round(time.monotonic() - started, 2),
            },
        )
        return network
