"""The UNet's repeated blocks, compiled once for all that are alike, before the first picture.

The batch's weights are attributes of the layers (`lora.layers`), so that a compiled block takes them as it
takes its own: another adapter, another number of pictures or another size compiles nothing. What was not
rehearsed is computed without being compiled, and nobody ever waits for a compiler.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental import _config as shape_config

from dreambooth_api.inference.denoising.rehearsal import (
    CONTROL,
    KINDS,
    Kind,
    Rehearsal,
    repeated_blocks,
)

log = logging.getLogger(__name__)

#: Largest difference to what is not compiled, as a share of the largest output, by the UNet's precision.
_SAME = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
#: Of each kind, by turns, for the time that they take.
_ROUNDS = 3
#: Widths of blocks: SD 1.x has three.
_MOST_WIDTHS = 8

Way = Callable[[], Tensor]


class NotTheSame(RuntimeError):
    """A compiled block gives something else."""


class CompilerFailed(RuntimeError):
    """The blocks are as they were; says why in short."""


def compile_blocks(unet: Any, rehearsal: Rehearsal, *, must_pay: bool, backend: Any = "inductor") -> bool:
    """Compile *unet*'s repeated blocks for the batches of *rehearsal*; minutes where the cache of compiled
    code (``TORCHINDUCTOR_CACHE_DIR``) does not have them.

    With *must_pay* they are left as they were, and it is False, where they are no faster. Where it is True
    nothing is compiled in this process any more. Raises CompilerFailed, where it changes the results, too.
    """
    started = time.monotonic()
    try:
        blocks = _Blocks(unet, backend)
        if not blocks.number:
            log.info("the UNet has no blocks that are known to repeat: nothing is compiled")
            return False
        with torch.compiler.set_stance("default"), _any_sizes():
            gain = _rehearse(blocks, rehearsal, _SAME.get(unet.dtype, 1e-3))
    except Exception as error:
        torch._dynamo.reset()
        raise CompilerFailed(_in_short(error)) from error
    finally:
        rehearsal.close()
    told = {"blocks": blocks.number, "seconds": round(time.monotonic() - started, 1), "gain": round(gain, 3)}
    if must_pay and gain <= 1:
        log.info("the UNet's blocks are no faster when they are compiled: they are not", extra=told)
        torch._dynamo.reset()
        return False
    # For the process, which the base model's UNet is the only one to be compiled in.
    torch.compiler.set_stance("eager_on_recompile")
    blocks.install()
    log.info("the UNet's blocks are compiled", extra=told)
    return True


@contextmanager
def _any_sizes() -> Iterator[None]:
    """Compile for as many kinds and widths as there are, and take no two sizes for one because they happen to
    be equal: a rank of 4 beside a batch of 4 rows.
    """
    limits = {"recompile_limit": len(KINDS) * _MOST_WIDTHS, "accumulated_recompile_limit": 2**20}
    with torch._dynamo.config.patch(limits), shape_config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
        yield


def _rehearse(blocks: _Blocks, rehearsal: Rehearsal, same: float) -> float:
    """How many times as fast all batches together are when compiled.

    Raises NotTheSame, and whatever the compiler raises.
    """
    plain = compiled = 0.0
    for kind, way in rehearsal.batches():
        expected = way()
        with blocks.installed():
            found = way()
        _check(kind, expected, found, same)
        taken: list[tuple[float, float]] = []
        for _ in range(_ROUNDS):
            without = _seconds(way)
            with blocks.installed():
                taken.append((without, _seconds(way)))
        plain += statistics.median(one for one, _ in taken)
        compiled += statistics.median(one for _, one in taken)
    way = rehearsal.control()
    expected = way()
    with blocks.installed(), torch.compiler.set_stance("fail_on_recompile"):
        _check(CONTROL, expected, way(), same)
    return plain / compiled


def _check(kind: Kind, expected: Tensor, found: Tensor, same: float) -> None:
    largest = expected.abs().max().item()
    difference = (found - expected).abs().max().item()
    # Written so that NaN is not the same.
    if not difference <= same * largest:
        raise NotTheSame(f"{kind} gives something else, by {difference:.2g} of {largest:.2g}")


def _seconds(way: Way) -> float:
    started = time.perf_counter()
    # Copied to the CPU: on a GPU it is computed only then.
    way().cpu()
    return time.perf_counter() - started


class _Blocks:
    def __init__(self, unet: Any, backend: Any) -> None:
        self._compiled = [
            (block, torch.compile(block.forward, dynamic=True, fullgraph=True, backend=backend))
            for block in repeated_blocks(unet)
        ]

    @property
    def number(self) -> int:
        return len(self._compiled)

    @contextmanager
    def installed(self) -> Iterator[None]:
        self.install()
        try:
            yield
        finally:
            for block, _ in self._compiled:
                del block.forward

    def install(self) -> None:
        for block, compiled in self._compiled:
            block.forward = compiled


def _in_short(error: Exception) -> str:
    """torch's compiler tells the traces of everything that it did."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join([type(error).__name__, *lines[:2]])
