"""Work that may need more memory than the device has."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from enlight_common.memory import memory_bounded


def within_memory() -> AbstractContextManager[None]:
    """Raise OutOfMemory where the block finds no memory, the device's or the machine's."""
    return memory_bounded(torch, "draw fewer or smaller pictures")
