"""What tools call a layer in a LoRA file: diffusers and peft by its path, kohya by a name of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from dreambooth_api.inference.lora.layout import LayerGroup, group_layers
from dreambooth_api.inference.lora.ldm_names import ldm_names

PARTS = ("unet", "text_encoder", "text_encoder_2")
# kohya-ss/sd-scripts, networks/lora.py: `LORA_PREFIX_…`.
_KOHYA = {
    "unet": ("lora_unet_",),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
}
# transformers 5 dropped this level of CLIPTextModel; files have it or not.
_TEXT_MODEL = "text_model."


@dataclass(frozen=True)
class Place:
    """A layer: in which part of the pipeline, which of its groups, and which layer of that."""

    part: str
    group: int
    layer: int


@dataclass(frozen=True)
class LayerNames:
    """The layers of a pipeline that adapters can change, by every name that files use for them."""

    groups: Mapping[str, tuple[LayerGroup, ...]]
    _places: Mapping[str, Place]

    @classmethod
    def of(cls, parts: Mapping[str, nn.Module]) -> LayerNames:
        """Those of *parts*, whose keys are of ``PARTS``; to be made before peft wraps any layer."""
        groups = {part: group_layers(network) for part, network in parts.items()}
        places: dict[str, Place] = {}
        for part, network in parts.items():
            others = ldm_names(network) if part == "unet" else {}
            for number, group in enumerate(groups[part]):
                for layer, name in enumerate(group.names):
                    place = Place(part, number, layer)
                    for spelled in _spellings(part, name, others.get(name)):
                        places[spelled] = place
        return cls(groups, places)

    @classmethod
    def of_pipeline(cls, pipeline: Any) -> LayerNames:
        """Those of a diffusers pipeline's UNet and text encoders."""
        found = {part: getattr(pipeline, part, None) for part in PARTS}
        return cls.of({part: network for part, network in found.items() if isinstance(network, nn.Module)})

    def find(self, spelled: str) -> Place | None:
        """The layer that a file calls *spelled*, if there is one."""
        return self._places.get(spelled)

    def group(self, place: Place) -> LayerGroup:
        """The group that *place* is in."""
        return self.groups[place.part][place.group]

    def name(self, place: Place) -> str:
        """A layer's path in the pipeline."""
        return f"{place.part}.{self.group(place).names[place.layer]}"


def _spellings(part: str, name: str, ldm_name: str | None) -> Iterator[str]:
    names = [name]
    if part != "unet":
        bare = name.removeprefix(_TEXT_MODEL)
        names = [bare, _TEXT_MODEL + bare]
    for one in names:
        yield f"{part}.{one}"
        for prefix in _KOHYA[part]:
            yield prefix + one.replace(".", "_")
    if part == "unet":
        yield name  # saved from the UNet alone
    if ldm_name is not None:
        yield "lora_unet_" + ldm_name.replace(".", "_")
