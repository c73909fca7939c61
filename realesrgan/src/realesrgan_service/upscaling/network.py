"""An upscaler as a function of windows of a picture, on one device and in one precision."""

from __future__ import annotations

import functools
import logging
import math
import time
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import torch
from enlight_common.queue import Stop
from spandrel import ImageModelDescriptor, ModelTiling

from realesrgan_service.upscaling import openvino_part
from realesrgan_service.upscaling.openvino_part import OpenVinoPart
from realesrgan_service.upscaling.tiles import FloatArray
from realesrgan_service.upscaling.torch_part import TorchPart

log = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16"]
Model: TypeAlias = ImageModelDescriptor[torch.nn.Module]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

#: How far a picture's pixels were seen to change what x4plus gives: beyond 64 of its pixels by less than
#: 0.3/255 on two photographs, beyond 48 by 2.5/255. The anime network, a quarter as deep: 0.3/255 beyond 48.
_DEEP_MARGIN, _SHALLOW_MARGIN, _DEEP = 64, 48, 10
_UNKNOWN_MARGIN = 32
#: Beyond the first layers RRDBNet enlarges, and looks less than two pixels far. It is done in smaller
#: tiles, because it is there that the memory goes: 64 channels at 16 times the pixels.
_TAIL_MARGIN, _TAIL_TILE = 2, 128

_WARM_UP_SIDE = 48
#: A pause of the machine should not make a service compute in bfloat16 for nothing.
_CLEARLY_FASTER = 1.1
_TRIED_CHANNELS, _TRIED_LAYERS, _TRIES = 64, 8, 6


class Part(Protocol):
    """A network or some layers of it: (1, channels, height, width) in, the same out, maybe larger."""

    def __call__(self, window: torch.Tensor, stop: Stop) -> torch.Tensor: ...


@dataclass
class Network:
    """`head` runs over whole windows, `tail`, where there is one, over small tiles of what it gives.

    `margin` is how many pixels around a tile its pixels depend on, to about 1/255; `tileable` is False for
    networks that must see the whole picture.
    """

    head: Part
    tail: Part | None
    scale: int
    channels: int
    margin: int
    tileable: bool
    precision: Precision
    engine: Literal["torch", "openvino"]
    seconds_per_pixel: float = 0.0

    def __call__(self, window: FloatArray, stop: Stop) -> FloatArray:
        """(channels, height, width) between 0 and 1, enlarged. Raises Canceled when *stop* says so."""
        features = self.head(torch.from_numpy(window)[None], stop)
        output = features if self.tail is None else self._tail(self.tail, features, stop)
        result: FloatArray = output[0].float().clamp(0, 1).cpu().numpy()
        return result

    def _tail(self, tail: Part, features: torch.Tensor, stop: Stop) -> torch.Tensor:
        height, width = features.shape[-2:]
        output = torch.empty(1, self.channels, height * self.scale, width * self.scale)
        for top in range(0, height, _TAIL_TILE):
            for left in range(0, width, _TAIL_TILE):
                rows = slice(max(0, top - _TAIL_MARGIN), min(height, top + _TAIL_TILE + _TAIL_MARGIN))
                columns = slice(max(0, left - _TAIL_MARGIN), min(width, left + _TAIL_TILE + _TAIL_MARGIN))
                part = tail(features[..., rows, columns], stop)
                bottom, right = min(height, top + _TAIL_TILE), min(width, left + _TAIL_TILE)
                output[..., self._at(top, bottom), self._at(left, right)] = part[
                    ...,
                    self._at(top - rows.start, bottom - rows.start),
                    self._at(left - columns.start, right - columns.start),
                ]
        return output

    def _at(self, start: int, stop: int) -> slice:
        return slice(start * self.scale, stop * self.scale)

    def warm_up(self) -> None:
        """Run a small window twice, and note how long a pixel takes."""
        window = torch.rand(self.channels, _WARM_UP_SIDE, _WARM_UP_SIDE).numpy()
        for _ in range(2):
            started = time.perf_counter()
            self(window, lambda: False)
            self.seconds_per_pixel = (time.perf_counter() - started) / _WARM_UP_SIDE**2


def network_of(model: Model, device: str, precision: Precision | None) -> Network:
    """*model* on *device*, in *precision* or, for None, in the one that is fastest there.

    On a GPU that is half precision. On a CPU with bfloat16 units both are tried, once for the process: those
    of AMX are several times as fast as float32, the AVX-512 ones of some CPUs are slower.
    """
    if precision is None:
        precision = fastest_on_cpu() if device == "cpu" else _half(model)
    if not _supports(model, precision):
        precision = "fp32"
    network = _build(model, device, precision)
    network.warm_up()
    return network


@functools.cache
def fastest_on_cpu() -> Precision:
    """The precision in which convolutions like those of the networks are fastest here."""
    capabilities = torch.cpu.get_capabilities()
    if not (capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")):
        return "fp32"
    window = torch.rand(1, _TRIED_CHANNELS, _WARM_UP_SIDE, _WARM_UP_SIDE)
    precisions: tuple[Precision, Precision] = ("fp32", "bf16")
    parts = [
        _part(_like_a_block(), "cpu", each, openvino_part.available(), _TRIED_CHANNELS) for each in precisions
    ]
    seconds = [math.inf, math.inf]
    for attempt in range(_TRIES):
        for index, part in enumerate(parts):
            started = time.perf_counter()
            part(window, lambda: False)
            if attempt:
                seconds[index] = min(seconds[index], time.perf_counter() - started)
    chosen: Precision = "bf16" if seconds[1] * _CLEARLY_FASTER < seconds[0] else "fp32"
    log.info(
        "the precision was chosen",
        extra={"precision": chosen, "bf16_times_as_fast": round(seconds[0] / seconds[1], 2)},
    )
    return chosen


def _like_a_block() -> torch.nn.Module:
    layers = [torch.nn.Conv2d(_TRIED_CHANNELS, _TRIED_CHANNELS, 3, padding=1) for _ in range(_TRIED_LAYERS)]
    return torch.nn.Sequential(*layers)


def _supports(model: Model, precision: Precision) -> bool:
    return precision == "fp32" or bool(
        model.supports_bfloat16 if precision == "bf16" else model.supports_half
    )


def _half(model: Model) -> Precision:
    return "fp16" if model.supports_half else "bf16" if model.supports_bfloat16 else "fp32"


def _build(model: Model, device: str, precision: Precision) -> Network:
    modules, margin, plain = _modules_of(model)
    on_openvino = device == "cpu" and plain and precision != "fp16" and openvino_part.available()
    parts = [
        _part(module, device, precision, on_openvino, _channels_into(module, model)) for module in modules
    ]
    return Network(
        head=parts[0],
        tail=parts[1] if len(parts) > 1 else None,
        scale=model.scale,
        channels=model.input_channels,
        margin=margin,
        tileable=model.tiling is not ModelTiling.INTERNAL,
        precision=precision,
        engine="openvino" if on_openvino else "torch",
    )


def _part(
    module: torch.nn.Module, device: str, precision: Precision, on_openvino: bool, channels: int
) -> Part:
    if on_openvino:
        return OpenVinoPart(module, channels, DTYPES[precision])
    # On the CPU autocast keeps sums in float32: 54 dB instead of fewer.
    half_weights = device != "cpu" and precision != "fp32"
    return TorchPart(module, torch.device(device), DTYPES[precision], half_weights=half_weights)


def _modules_of(model: Model) -> tuple[list[torch.nn.Module], int, bool]:
    """The network's parts, its margin in pixels, and whether it is of plain convolutions."""
    network: Any = model.model
    if model.architecture.id == "ESRGAN" and not network.shuffle_factor:
        layers = network.model
        blocks = sum(name.endswith("RDB1.conv1.0.weight") for name in network.state_dict())
        return [layers[:2], layers[2:]], _DEEP_MARGIN if blocks > _DEEP else _SHALLOW_MARGIN, True
    if model.architecture.id == "Compact":
        return [network], sum(isinstance(layer, torch.nn.Conv2d) for layer in network.body), True
    margin = _DEEP_MARGIN if model.architecture.id == "ESRGAN" else _UNKNOWN_MARGIN
    return [_Called(model)], margin, False


def _channels_into(module: torch.nn.Module, model: Model) -> int:
    first = next((layer for layer in module.modules() if isinstance(layer, torch.nn.Conv2d)), None)
    return model.input_channels if first is None else first.in_channels


class _Called(torch.nn.Module):
    """A model by spandrel's own call, which pads a window to what the network takes."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network = model.model
        self._model = model

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self._model(window)
        return output
