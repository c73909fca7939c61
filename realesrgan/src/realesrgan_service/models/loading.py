"""Files of weights become spandrel's models. Nothing in them is run."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from enlight_common.errors import InvalidField
from spandrel import (
    ImageModelDescriptor,
    ModelLoader,
    StateDict,
    UnsupportedModelError,
)

from realesrgan_service.models.catalog import MAX_BYTES

log = logging.getLogger(__name__)

Upscaler: TypeAlias = ImageModelDescriptor[torch.nn.Module]


def read_weights(path: Path, field: str) -> StateDict:
    """The tensors in a ``.safetensors``, or in a ``.pth`` as far as spandrel's restricted unpickler goes.

    Raises:
        InvalidField: the file holds anything else, or is damaged.
    """
    try:
        if path.suffix == ".pth":
            _refuse_programs(path)
        state = ModelLoader("cpu").load_state_dict_from_file(path)
    except pickle.UnpicklingError as error:
        log.warning("%s was refused: %s", path.name, error)
        raise InvalidField(field, "names a file that holds more than weights; it was not loaded") from error
    except InvalidField:
        raise
    except Exception as error:  # damaged files make nearly any error
        log.warning("%s could not be read: %s", path.name, error)
        raise InvalidField(field, "names a file that is not readable weights") from error
    if not isinstance(state, Mapping):
        raise InvalidField(field, "names a file that is not readable weights")
    return state


def upscaler_from(state: StateDict, field: str) -> Upscaler:
    """The model that *state* is the weights of, on the CPU in float32.

    Raises:
        InvalidField: spandrel knows no upscaler of these weights.
    """
    try:
        model = ModelLoader("cpu").load_from_state_dict(state)
    except UnsupportedModelError as error:
        raise InvalidField(field, "names weights of no architecture that spandrel knows") from error
    except Exception as error:
        log.warning("weights were refused: %s", error)
        raise InvalidField(field, "names weights that do not fit their architecture") from error
    if not isinstance(model, ImageModelDescriptor) or model.purpose not in ("SR", "Restoration"):
        raise InvalidField(field, "names weights that do not enlarge or restore pictures")
    if model.input_channels not in (1, 3) or model.output_channels != model.input_channels:
        raise InvalidField(field, "names an upscaler of neither grey nor RGB pictures")
    return model.eval()


def blended(first: StateDict, second: StateDict, share: float) -> StateDict:
    """*share* of the first weights and the rest of the second (deep network interpolation).

    Raises:
        InvalidField: they are not of one architecture.
    """
    if {name: value.shape for name, value in first.items()} != {
        name: value.shape for name, value in second.items()
    }:
        raise InvalidField("denoise_strength", "cannot be had: the two networks differ in their layers")
    return {name: share * first[name].float() + (1 - share) * second[name].float() for name in first}


def _refuse_programs(path: Path) -> None:
    """Refuse what torch.load would take for TorchScript, and archives that unpack to more than they weigh."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.filename.rsplit("/", 1)[-1] == "constants.pkl" for member in members):
        raise pickle.UnpicklingError("TorchScript")
    if sum(member.file_size for member in members) > MAX_BYTES:
        raise pickle.UnpicklingError("too large")
