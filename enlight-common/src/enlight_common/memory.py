"""How much memory there is, and what becomes of work that needs more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from enlight_common.errors import OutOfMemory

#: PyTorch's own words where the machine's memory, not a GPU's, does not suffice.
_CPU_WORDS = "can't allocate memory"


@contextlib.contextmanager
def memory_bounded(torch: ModuleType, advice: str) -> Iterator[None]:
    """Raise OutOfMemory, with *advice*, where PyTorch (the module *torch*) or Python finds no memory; what
    PyTorch kept of a GPU's is freed.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        on_gpu = isinstance(error, torch.OutOfMemoryError)
        if not on_gpu and isinstance(error, RuntimeError) and _CPU_WORDS not in str(error):
            raise
        if on_gpu and torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise OutOfMemory(f"there is not enough memory; {advice}") from error


def available_bytes(system: Path = Path("/")) -> int:
    """Memory that can be had without swapping: of the machine, or of the container where that is less."""
    amounts = [_machine_bytes(system / "proc" / "meminfo")]
    with contextlib.suppress(OSError, ValueError):  # not in a container, or "max": no bound
        group = system / "sys" / "fs" / "cgroup"
        bound = int((group / "memory.max").read_text())
        amounts.append(bound - int((group / "memory.current").read_text()))
    return min(amounts)


def _machine_bytes(meminfo: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in meminfo.read_text().splitlines():
            name, _, amount = line.partition(":")
            if name == "MemAvailable":
                return int(amount.split()[0]) * 1024
    return 0
