"""The scale that diffusers writes into a LoRA file's metadata, where the file has no alphas of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# diffusers/loaders/lora_base.py: `LORA_ADAPTER_METADATA_KEY`; peft's `LoraConfig.to_dict()`, with the part
# of the pipeline before each name.
_KEY = "lora_adapter_metadata"
#: SDXL has some 800 layers that can have a scale of their own.
_MAX_PATTERNS = 4096
_MAX_ALPHA = 1e9


@dataclass(frozen=True)
class SavedScales:
    """peft's configuration of each part of the pipeline, by the part's name."""

    _configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, metadata: Mapping[str, str] | None) -> SavedScales:
        """From a file's metadata; what is not diffusers' counts as none."""
        try:
            saved = json.loads((metadata or {}).get(_KEY, "{}"))
        except (ValueError, RecursionError):
            return cls()
        configs: dict[str, dict[str, Any]] = {}
        for name, value in saved.items() if isinstance(saved, dict) else ():
            part, _, setting = name.partition(".")
            configs.setdefault(part, {})[setting] = value
        return cls(configs)

    @property
    def unsupported(self) -> list[str]:
        """Settings under which the matrices mean something else than up @ down."""
        asked = (
            name
            for config in self._configs.values()
            for name in ("use_dora", "fan_in_fan_out")
            if config.get(name)
        )
        return sorted(set(asked))

    def scale(self, name: str, rank: int) -> float:
        """alpha / rank of the layer whose path is *name*; 1 where nothing was saved."""
        part, _, path = name.partition(".")
        config = self._configs.get(part, {})
        alpha = _matching(config.get("alpha_pattern"), path, config.get("lora_alpha"))
        if not isinstance(alpha, int | float) or not abs(alpha) <= _MAX_ALPHA:
            return 1.0
        return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _matching(pattern: Any, path: str, otherwise: Any) -> Any:
    """The value of the key that *path* ends in, as peft's ``get_pattern_key`` finds it for plain names."""
    if isinstance(pattern, dict) and len(pattern) <= _MAX_PATTERNS:
        for key, value in pattern.items():
            # Taken literally: a regular expression from a stranger's file could run for ever.
            name = key.removeprefix("^")
            if path == name or path.endswith(f".{name}"):
                return value
    return otherwise
