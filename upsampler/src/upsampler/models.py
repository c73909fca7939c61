"""The upscalers that this service knows, with the settings that suit each.

An upscaler is a name in the registry below, or the name of a folder under ``upsampler`` in the folder of
weights: a ``StableDiffusionUpscalePipeline`` as diffusers saves it, or a Swin2SR as transformers does.
Anything else is refused by name, and weights are read from safetensors only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from enlight_common.errors import InvalidField
from enlight_common.files import read_json
from enlight_common.ids import check_id

EngineName = Literal["sd", "swin2sr"]

TINY = "enlight/tiny-x4"
TINY_FOLDER = Path(__file__).parent / "tiny-x4"
SWIN2SR = "caidas/swin2SR-classical-sr-x4-64"
_PIPELINE = "StableDiffusionUpscalePipeline"


@dataclass(frozen=True)
class Upscaler:
    """An upscaler, and what is done where a request does not say.

    `source` is a hub id or an absolute folder; `revision` the commit at the hub, where several public sources
    agree on one, else None: what is fetched first is kept. `tile` and `overlap` are in pixels of the picture
    that is enlarged; what is no larger than a tile is done whole. `steps`, `noise_level` (0 to 350) and
    `guidance_scale` are of the engine `sd`.
    """

    name: str
    engine: EngineName
    source: str
    tile: int
    overlap: int
    steps: int = 1
    noise_level: int = 0
    guidance_scale: float = 1.0
    variant: str | None = None
    revision: str | None = None

    @property
    def is_folder(self) -> bool:
        return Path(self.source).is_absolute()


def _diffusion(name: str, source: str, variant: str | None = None, revision: str | None = None) -> Upscaler:
    """With the pipeline's own defaults, at the size that Stability's model was trained for."""
    return Upscaler(
        name,
        "sd",
        source,
        128,
        32,
        steps=75,
        noise_level=20,
        guidance_scale=9.0,
        variant=variant,
        revision=revision,
    )


def _swin2sr(name: str, source: str) -> Upscaler:
    # Its windows take some 3 GB at 512×512.
    return Upscaler(name, "swin2sr", source, 512, 32)


_TINY = Upscaler(TINY, "sd", str(TINY_FOLDER), 96, 16, steps=4, noise_level=0, guidance_scale=1.0)
_X4 = "stabilityai/stable-diffusion-x4-upscaler"
_REGISTRY: dict[str, Upscaler] = {
    upscaler.name: upscaler
    for upscaler in (
        _TINY,
        _diffusion(_X4, _X4, "fp16", revision="572c99286543a273bfd17fac263db5a77be12c4c"),
        *(
            _swin2sr(name, name)
            for name in (
                SWIN2SR,
                "caidas/swin2SR-classical-sr-x2-64",
                "caidas/swin2SR-compressed-sr-x4-48",
                "caidas/swin2SR-lightweight-x2-64",
                "caidas/swin2SR-realworld-sr-x4-64-bsrgan-psnr",
            )
        ),
    )
}


def known_upscalers(weights_dir: Path) -> list[Upscaler]:
    """The registry's, then those in the folder of weights."""
    local = []
    for path in sorted(_folder(weights_dir).glob("*")):
        try:
            local.append(_from_folder(check_id(path.name, "model"), path))
        except (InvalidField, OSError, ValueError):
            continue
    return [*_REGISTRY.values(), *local]


def resolve_upscaler(name: str, weights_dir: Path, field: str = "model") -> Upscaler:
    """The upscaler called *name*. Raises InvalidField, whose reason lists the names there are."""
    if name in _REGISTRY:
        return _REGISTRY[name]
    for upscaler in known_upscalers(weights_dir)[len(_REGISTRY) :]:
        if upscaler.name == name:
            return upscaler
    names = ", ".join(upscaler.name for upscaler in known_upscalers(weights_dir))
    raise InvalidField(field, f"must be one of {names}")


def _folder(weights_dir: Path) -> Path:
    return weights_dir.absolute() / "upsampler"


def _from_folder(name: str, folder: Path) -> Upscaler:
    """Read off a folder's own configuration what it holds. Raises ValueError where it is no upscaler."""
    if (folder / "model_index.json").is_file():
        if _members(folder / "model_index.json").get("_class_name") != _PIPELINE:
            raise ValueError("another pipeline")
        if not all(any((folder / part).glob("*.safetensors")) for part in ("unet", "vae", "text_encoder")):
            raise ValueError("no safetensors")
        return _diffusion(name, str(folder))
    if _members(folder / "config.json").get("model_type") != "swin2sr" or not any(
        folder.glob("*.safetensors")
    ):
        raise ValueError("no Swin2SR in safetensors")
    return _swin2sr(name, str(folder))


def _members(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value
