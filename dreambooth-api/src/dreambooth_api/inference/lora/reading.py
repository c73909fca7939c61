"""LoRA files of any tool, read into ``AdapterWeights`` or refused.

What is read: diffusers' (``unet.….lora_A.weight``, ``….lora.down.weight``, and the attention processors' of
old: ``….processor.to_q_lora.down.weight``), peft's for diffusers, and kohya's (``lora_unet_…``, with alphas,
in diffusers' or in LDM's numbering of blocks); for linear layers and convolutions of UNet and text encoders.
Everything else (DoRA, LoKr, LoHa, Tucker-decomposed convolutions, biases) has keys that match nothing here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from enlight_common.errors import EnlightError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dreambooth_api.inference.lora.adapter_metadata import SavedScales
from dreambooth_api.inference.lora.layout import LayerGroup
from dreambooth_api.inference.lora.names import LayerNames, Place
from dreambooth_api.inference.lora.weights import AdapterWeights, Extent, lay_out

#: SDXL with every layer adapted has some 2,400 keys of 150 bytes: 400 kB.
MAX_HEADER_BYTES = 16 * 2**20
_NAMED = 10
_NAME_LENGTH = 200

_MATRIX = re.compile(
    r"(?P<stem>.+)\."
    r"(?:lora_(?:A|down)|lora\.down|lora_linear_layer\.down|(?P<up>lora_(?:B|up)|lora\.up|lora_linear_layer\.up))"
    r"\.weight"
)
# diffusers until 0.17: the matrices belonged to the attention's processor.
_PROCESSOR = re.compile(r"(?P<attention>.+)\.to_(?P<which>[qkv]|out)_lora\.(?:down|(?P<up>up))\.weight")
_ALPHA = re.compile(r"(?P<stem>.+)\.alpha")


class BadAdapter(EnlightError):
    """The file is no adapter for this base model; the detail names the keys that are at fault."""

    status = 422
    type = "bad-adapter"
    title = "The adapter cannot be applied to this base model"


@dataclass
class _Found:
    """The keys of one layer."""

    spelled: str
    down: str | None = None
    up: str | None = None
    alpha: str | None = None


@dataclass
class _Contents:
    """The keys of a file by the layer that they are for."""

    layers: dict[Place, _Found] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)


def read_adapter(file: Path, names: LayerNames, *, max_rank: int, dtype: torch.dtype) -> AdapterWeights:
    """Read *file* (safetensors) for the pipeline that *names* is of, in the CPU's memory and in *dtype*.

    Raises:
        BadAdapter: it cannot be read, is for other layers than this pipeline's, holds numbers that are not
            finite, or has a rank above *max_rank*.
        OSError: the file is not there.
    """
    _check_header(file)
    try:
        with safe_open(file, framework="pt") as opened:
            return _read(opened, names, max_rank, dtype)
    except SafetensorError as error:
        raise BadAdapter("the file is no safetensors file, or damaged") from error


def _check_header(file: Path) -> None:
    with file.open("rb") as opened:
        # safetensors: the length of a JSON header in 8 bytes, the header, the numbers.
        length = int.from_bytes(opened.read(8), "little")
    if length > MAX_HEADER_BYTES:
        raise BadAdapter(f"the header of the file must have at most {MAX_HEADER_BYTES} bytes")


def _read(opened: Any, names: LayerNames, max_rank: int, dtype: torch.dtype) -> AdapterWeights:
    contents = _sort(opened.keys(), names)
    _refuse("these keys match no layer of the base model", contents.unmatched)
    if not contents.layers:
        raise BadAdapter("there is no LoRA in the file")
    ranks = _ranks(opened, names, contents)
    too_high = [found.spelled for place, found in contents.layers.items() if ranks[place] > max_rank]
    if too_high:
        highest = max(ranks.values())
        _refuse(f"the rank must be at most {max_rank}, it is up to {highest} in", too_high)
    scales = SavedScales.of(opened.metadata())
    if scales.unsupported:
        raise BadAdapter(f"adapters made with {' and '.join(scales.unsupported)} are not supported")
    by_group: dict[tuple[str, int], dict[int, int]] = {}
    for place, rank in ranks.items():
        by_group.setdefault((place.part, place.group), {})[place.layer] = rank
    extents = list(lay_out(by_group, names.groups))
    flat = torch.zeros(extents[-1].start + extents[-1].size, dtype=dtype)
    for extent in extents:
        _fill(flat, extent, opened, contents, names, scales)
    _check_finite(flat, extents, contents)
    return AdapterWeights(flat, extents, names.groups)


def _sort(keys: Iterable[str], names: LayerNames) -> _Contents:
    contents = _Contents()
    for key in keys:
        stem, role = _parse(key)
        place = None if stem is None else names.find(stem)
        if stem is None or place is None:
            contents.unmatched.append(key)
            continue
        found = contents.layers.setdefault(place, _Found(stem))
        if getattr(found, role) is not None:
            _refuse("these keys are for a layer that has others too", [key])
        setattr(found, role, key)
    return contents


def _parse(key: str) -> tuple[str | None, str]:
    """What the file calls the layer, and which of ``_Found``'s fields the key is."""
    if match := _PROCESSOR.fullmatch(key):
        attention, which = match["attention"].removesuffix(".processor"), match["which"]
        text = attention.startswith("text_encoder")
        projection = f"{which}_proj" if text else "to_out.0" if which == "out" else f"to_{which}"
        return f"{attention}.{projection}", "up" if match["up"] else "down"
    if match := _MATRIX.fullmatch(key):
        return match["stem"].replace(".processor.", "."), "up" if match["up"] else "down"
    if match := _ALPHA.fullmatch(key):
        return match["stem"], "alpha"
    return None, ""


def _ranks(opened: Any, names: LayerNames, contents: _Contents) -> dict[Place, int]:
    """Each layer's rank, where all its keys are there and fit."""
    halves = [found.spelled for found in contents.layers.values() if found.down is None or found.up is None]
    _refuse("the other half is missing for", halves)
    ranks, wrong = {}, []
    for place, found in contents.layers.items():
        down = tuple(opened.get_slice(found.down).get_shape())
        up = tuple(opened.get_slice(found.up).get_shape())
        if _fit(names.group(place), down, up):
            ranks[place] = down[0]
        else:
            wrong.append(found.spelled)
    _refuse("the matrices do not fit the base model's layers for", wrong)
    return ranks


def _fit(group: LayerGroup, down: tuple[int, ...], up: tuple[int, ...]) -> bool:
    if len(down) < 2 or len(up) < 2 or down[0] < 1:
        return False
    # A 1×1 window may be written or not: tools differ for linear layers that were convolutions once.
    window = group.shape[2:] if set(group.shape[2:]) != {1} else ()
    return (
        down[1] == group.shape[1]
        and (down[2:] == window or (not window and set(down[2:]) == {1}))
        and up[:2] == (group.outputs, down[0])
        and set(up[2:]) <= {1}
    )


def _fill(
    flat: Tensor,
    extent: Extent,
    opened: Any,
    contents: _Contents,
    names: LayerNames,
    scales: SavedScales,
) -> None:
    downs, ups = extent.down(flat), extent.up(flat)
    for row, layer in enumerate(extent.layers):
        place = Place(extent.part, extent.group, layer)
        found = contents.layers[place]
        down, up = opened.get_tensor(found.down).float(), opened.get_tensor(found.up).float()
        rank = down.shape[0]
        if found.alpha is None:
            scale = scales.scale(names.name(place), rank)
        else:
            scale = _number(opened.get_tensor(found.alpha), found.alpha) / rank
        # An even share for each of the two, so that neither is lost among half precision's smallest numbers.
        share = 2.0 ** round(math.log2(abs(scale)) / 2) if scale else 1.0
        downs[row, :rank] = down.reshape(rank, -1) * share
        ups[row, :, :rank] = up.reshape(-1, rank) * (scale / share)


def _number(alpha: Tensor, key: str) -> float:
    if alpha.numel() != 1 or not math.isfinite(number := float(alpha)):
        _refuse("this must be one finite number", [key])
    return number


def _check_finite(flat: Tensor, extents: list[Extent], contents: _Contents) -> None:
    if bool(torch.isfinite(flat).all()):
        return
    wrong = []
    for extent in extents:
        finite = torch.isfinite(extent.down(flat)).all(-1).all(-1) & torch.isfinite(extent.up(flat)).all(
            -1
        ).all(-1)
        for layer, right in zip(extent.layers, finite.tolist(), strict=True):
            if not right:
                wrong.append(contents.layers[Place(extent.part, extent.group, layer)].spelled)
    _refuse("there are numbers that are not finite, or not in this precision, in", wrong)


def _refuse(reason: str, names: list[str]) -> None:
    """Raise, unless *names* is empty. They are the file's own and go back to who sent it."""
    if not names:
        return
    shown = ", ".join(name[:_NAME_LENGTH] for name in sorted(names)[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    raise BadAdapter(f"{reason}: {shown}{more}")
