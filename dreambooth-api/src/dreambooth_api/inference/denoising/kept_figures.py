"""What was learned about batches, on the disk: a service that was started again knows it from the start."""

from __future__ import annotations

import hashlib
import logging
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from enlight_common.errors import StorageFull
from enlight_common.files import read_json, write_json

from dreambooth_api.inference.denoising.batch_sizes import Figure
from dreambooth_api.models.bases import BaseModel

log = logging.getLogger(__name__)

_SCHEMA = 1
#: More than this many pictures are in no batch, and no latents have longer sides.
_MOST_PICTURES, _LONGEST_SIDE = 1024, 1024


def running_on(base: BaseModel, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """What the figures depend on."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.machine()} with {torch.get_num_threads()} threads"
    return {
        "base": base.name,
        "revision": base.revision or "",
        "device": name,
        "dtype": str(dtype),
        "torch": torch.__version__,
    }


class KeptFigures:
    """A file in *folder* for all that *runs* the same. Instances that share the folder share it, and the last
    one's figures count.
    """

    def __init__(self, folder: Path, runs: Mapping[str, str]) -> None:
        self._runs = dict(runs)
        digest = hashlib.sha256(repr(sorted(runs.items())).encode()).hexdigest()
        self._path = folder / f"{digest[:32]}.json"

    def read(self) -> list[Figure]:
        """What was kept; nothing where there is no such file, or it is broken or of something else."""
        try:
            kept = read_json(self._path)
            if kept["schema_version"] != _SCHEMA or kept["runs"] != self._runs:
                return []
            return [_figure(one) for one in kept["figures"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            log.warning("the figures kept about batches cannot be read: %s", type(error).__name__)
            return []

    def write(self, figures: Sequence[Figure]) -> None:
        """Keep these instead. Where that fails they are learned again after the next start."""
        kept = [
            {"height": one.shape[0], "width": one.shape[1], "size": one.size, "seconds": one.seconds}
            for one in figures
        ]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Not synced: what a power cut leaves is whole or ignored, and pictures wait for this thread.
            document = {"schema_version": _SCHEMA, "runs": self._runs, "figures": kept}
            write_json(self._path, document, sync=False)
        except (OSError, StorageFull) as error:
            log.warning("the figures about batches could not be kept: %s", error)


def _figure(kept: Mapping[str, Any]) -> Figure:
    """Raises ValueError, KeyError, TypeError, OverflowError."""
    figure = Figure((int(kept["height"]), int(kept["width"])), int(kept["size"]), float(kept["seconds"]))
    bounded = 0 < figure.size <= _MOST_PICTURES and all(0 < side <= _LONGEST_SIDE for side in figure.shape)
    if not (bounded and math.isfinite(figure.seconds) and figure.seconds > 0):
        raise ValueError("out of bounds")
    return figure
