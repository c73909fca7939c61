"""What becomes of work that needs more memory than there is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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
