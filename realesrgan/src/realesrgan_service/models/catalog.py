"""The upscalers by name: those in the models folder, and those that can be fetched into it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from enlight_common.errors import UnknownModel
from enlight_common.fetching import Fetches
from enlight_common.ids import ID_PATTERN
from enlight_common.queue import Stop

from realesrgan_service.models.obtaining import obtain
from realesrgan_service.models.published import UPSCALERS

DEFAULT = "RealESRGAN_x4plus"
SUFFIXES = (".safetensors", ".pth")  # of two files of one name the first is taken
MAX_BYTES = 2_000_000_000
_MAX_LISTED = 1000
_NAME = re.compile(ID_PATTERN)

#: Names under which the same networks are known: those of ncnn's programs. animevideov3 has one network,
#: whose x2 and x3 shrink what it gives, as every enlargement here ends in a resampling.
ALIASES = {
    "realesrgan-x4plus": "RealESRGAN_x4plus",
    "realesrgan-x4plus-anime": "RealESRGAN_x4plus_anime_6B",
    "realesr-animevideov3-x2": "realesr-animevideov3",
    "realesr-animevideov3-x3": "realesr-animevideov3",
    "realesr-animevideov3-x4": "realesr-animevideov3",
}


def _never() -> bool:
    return False


@dataclass(frozen=True)
class ModelFile:
    """An upscaler in the models folder; *version* changes when the file does."""

    name: str
    path: Path
    bytes: int
    version: tuple[int, int, int]


class Catalog:
    """The models folder. A file that is dropped in is there at once."""

    def __init__(self, folder: Path, fetches: Fetches | None = None) -> None:
        """*fetches* is for what is not in the folder; where it is None, nothing is fetched."""
        self._folder = folder
        self._fetches = fetches

    def files(self) -> list[ModelFile]:
        """What is in the folder, by name; files with names that cannot be asked for are left out."""
        found: dict[str, ModelFile] = {}
        try:
            paths = sorted(self._folder.iterdir())
        except FileNotFoundError:
            return []
        for suffix in SUFFIXES:
            for path in paths:
                if path.suffix == suffix and path.stem not in found and _NAME.fullmatch(path.stem):
                    model = _model_file(path)
                    if model is not None:
                        found[path.stem] = model
        return [found[name] for name in sorted(found)][:_MAX_LISTED]

    def fetchable(self) -> list[str]:
        """Names that are fetched when they are first asked for."""
        here = {model.name for model in self.files()}
        return sorted(UPSCALERS.keys() - here) if self._fetches is not None else []

    def find(
        self, name: str, field: str = "model_name", *, stop: Stop = _never, patient: bool = False
    ) -> ModelFile:
        """The upscaler *name*, fetched if it is known and not there.

        The name is compared with those in the folder and never becomes a part of a path.

        Raises:
            UnknownModel: there is none.
            InvalidField: it is known, and its weights are not here and could not be fetched.
            BeingFetched: that takes longer than a request waits; *patient* waits on.
            Canceled: *stop* said so while it was being fetched.
        """
        name = ALIASES.get(name, name)
        here = {model.name: model for model in self.files()}
        if name in here:
            return here[name]
        weight = UPSCALERS.get(name)
        if weight is None:
            raise UnknownModel("there is no upscaler of this name; GET /models lists them", field=field)
        obtain(weight, self._folder, self._fetches, field, stop, patient=patient)
        fetched = _model_file(self._folder / weight.file)
        if fetched is None:
            raise UnknownModel("the upscaler was removed just now; ask again", field=field)
        return fetched


def _model_file(path: Path) -> ModelFile | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    if not path.is_file() or facts.st_size > MAX_BYTES:
        return None
    return ModelFile(path.stem, path, facts.st_size, (facts.st_ino, facts.st_mtime_ns, facts.st_size))
