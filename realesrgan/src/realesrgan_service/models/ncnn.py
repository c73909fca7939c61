"""Reading ncnn's model files, as far as Real-ESRGAN's networks use them, into PyTorch's state dicts.

The ``.param`` file is text: a magic number, the counts of layers and blobs, and a line for each layer. The
``.bin`` file holds the layers' weights one after the other, in the order of the lines, without names:
a convolution's are four bytes that tell their type, the weights (padded to four bytes) and a bias in
float32; a PReLU's are its slopes in float32. See ncnn's wiki, "param and model file structure".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_PARAM_MAGIC = "7767517"
_FP16_TAG = 0x01306B47
_FP32_TAG = 0
_KERNEL = 3  # of every convolution in these networks

#: Convolutions of RRDBNet outside its blocks: the first, the body's last, two that enlarge, the last two.
_RRDB_OUTSIDE = 6
#: In a block: three dense blocks of five.
_RRDB_PER_BLOCK = 15

Weights = npt.NDArray[Any]  # of float16 or float32


class NcnnError(Exception):
    """The files are not what this reader knows; the message says where."""


@dataclass(frozen=True)
class Layer:
    """A layer with weights: a convolution with (out, in, 3, 3) weights and a bias, or a PReLU's slopes."""

    kind: str
    weight: Weights
    bias: Weights | None = None


def read_state_dict(param: Path, weights: Path) -> dict[str, Weights]:
    """The weights under the names of RRDBNet or SRVGGNetCompact, whichever network the files hold.

    Half precision stays half precision: nothing is rounded.

    Raises:
        NcnnError: the files hold another network, or are damaged.
        OSError: they cannot be read.
    """
    layers = list(_read_layers(param.read_text(encoding="ascii"), weights.read_bytes()))
    if any(layer.kind == "PReLU" for layer in layers):
        names = [f"body.{index}" for index in range(len(layers))]
    else:
        names = _rrdb_names(len(layers))
    state: dict[str, Weights] = {}
    for name, layer in zip(names, layers, strict=True):
        state[f"{name}.weight"] = layer.weight
        if layer.bias is not None:
            state[f"{name}.bias"] = layer.bias
    return state


def _rrdb_names(convolutions: int) -> list[str]:
    blocks, rest = divmod(convolutions - _RRDB_OUTSIDE, _RRDB_PER_BLOCK)
    if blocks < 1 or rest:
        raise NcnnError(f"{convolutions} convolutions are no RRDBNet")
    return [
        "conv_first",
        *(
            f"body.{block}.rdb{dense}.conv{number}"
            for block in range(blocks)
            for dense in (1, 2, 3)
            for number in (1, 2, 3, 4, 5)
        ),
        "conv_body",
        "conv_up1",
        "conv_up2",
        "conv_hr",
        "conv_last",
    ]


def _read_layers(param: str, data: bytes) -> Iterator[Layer]:
    lines = param.splitlines()
    if not lines or lines[0].strip() != _PARAM_MAGIC:
        raise NcnnError("the param file does not begin as one")
    source = _Source(data)
    for line in lines[2:]:
        fields = line.split()
        if not fields:
            continue
        if fields[0] == "Convolution":
            yield _convolution(_settings(fields), source)
        elif fields[0] == "PReLU":
            yield Layer("PReLU", source.take(_settings(fields)[0], np.float32))
    if source.left:
        raise NcnnError(f"{source.left} bytes are left over")


def _settings(fields: list[str]) -> dict[int, int]:
    """A layer's whole-number settings: what follows its kind, name, counts and blobs as ``key=value``."""
    settings = {}
    for field in fields[4:]:
        key, equals, value = field.partition("=")
        if equals and value.isdecimal():
            settings[int(key)] = int(value)
    return settings


def _convolution(settings: dict[int, int], source: _Source) -> Layer:
    out_channels, size = settings[0], settings[6]
    in_channels, rest = divmod(size, out_channels * _KERNEL * _KERNEL)
    if settings.get(1) != _KERNEL or rest:
        raise NcnnError("a convolution is not 3×3")
    if not settings.get(5):
        raise NcnnError("a convolution has no bias")
    tag = int(source.take(1, np.uint32)[0])
    if tag not in (_FP16_TAG, _FP32_TAG):
        raise NcnnError("the weights are neither float16 nor float32")
    weight = source.take(size, np.float16 if tag == _FP16_TAG else np.float32)
    shape = (out_channels, in_channels, _KERNEL, _KERNEL)
    return Layer("Convolution", weight.reshape(shape), source.take(out_channels, np.float32))


class _Source:
    """The ``.bin`` file, taken from its beginning to its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int, kind: type[np.generic]) -> npt.NDArray[Any]:
        """The next *count* numbers; what follows begins at a multiple of four bytes."""
        size = count * np.dtype(kind).itemsize
        if size > self.left:
            raise NcnnError("the weights end too early")
        taken = np.frombuffer(self._data, np.dtype(kind).newbyteorder("<"), count, self._at)
        self._at += -(-size // 4) * 4
        return taken
