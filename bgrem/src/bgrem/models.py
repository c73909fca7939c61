"""Which models there are: every one that the installed rembg offers and that runs on this machine."""

from __future__ import annotations

import logging
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enlight_common.default_weights import REMBG
from enlight_common.errors import InvalidField
from enlight_common.fetching import Fetches
from enlight_common.queue import Stop
from enlight_common.weights import Weight, fetch_all, is_sound

from bgrem.rembg_sessions import session_classes

log = logging.getLogger(__name__)

_FOLDER = "rembg"
#: Models that find several things in a picture, and how many.
_SEVERAL_MASKS = {"u2net_cloth_seg": 3}


@dataclass(frozen=True)
class Model:
    """A model: rembg's class for it, and its files. One without files of rembg's own is the operator's,
    who puts `<name>.onnx` into the folder.
    """

    name: str
    session_class: type[Any]
    weights: tuple[Weight, ...]

    @property
    def masks(self) -> int:
        """How many masks it gives for a picture."""
        return _SEVERAL_MASKS.get(self.name, 1)

    def paths(self, weights_dir: Path) -> list[Path]:
        """Where its files are or would be, in the order in which its class takes them."""
        if not self.weights:
            return [weights_dir / _FOLDER / f"{self.name}.onnx"]
        return [weights_dir / weight.file for weight in self.weights]

    def is_here(self, weights_dir: Path) -> bool:
        """Whether its files are there; their bytes are not looked at."""
        return all(path.is_file() for path in self.paths(weights_dir))

    def is_sound(self, weights_dir: Path) -> bool:
        """Whether its files are there and as they should be; every byte is read where checksums are known."""
        if not self.weights:
            return self.is_here(weights_dir)
        return all(is_sound(weight, weights_dir / weight.file) for weight in self.weights)

    def check_obtainable(self, weights_dir: Path, field: str = "model") -> None:
        """Raise InvalidField(field) where the operator would have to put a file there first."""
        if not self.weights and not self.is_here(weights_dir):
            file = f"{_FOLDER}/{self.name}.onnx"
            raise InvalidField(field, f"needs the file {file} in the service's folder of weights", file=file)

    def obtain(self, weights_dir: Path, fetches: Fetches, stop: Stop, *, patient: bool = False) -> list[Path]:
        """Its files, whole and checked. Those that are on the disk wait for no download.

        Raises:
            InvalidField: the operator has to put its file there.
            Unavailable: they are still being fetched (*patient* waits on), or cannot be had.
            StoreCorrupt, TimedOut, StorageFull: fetching them went wrong.
            Canceled: *stop* said so.
        """
        self.check_obtainable(weights_dir)
        if not (self.is_here(weights_dir) and self.is_sound(weights_dir)):
            fetches.get(self.name, lambda: fetch_all(self.weights, weights_dir), stop, patient=patient)
        return self.paths(weights_dir)


class Models:
    """The models by name."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = dict(models)

    @classmethod
    def of_rembg(cls) -> Models:
        """Every model of the installed rembg but those that would send the picture to somebody else."""
        here = {name: kind for name, kind in session_classes().items() if kind.is_local()}
        return cls({name: Model(name, kind, _weights(name, kind)) for name, kind in here.items()})

    @property
    def names(self) -> list[str]:
        """All names, in order."""
        return sorted(self._models)

    def named(self, name: str, field: str = "model") -> Model:
        """The model of this name. Raises InvalidField(field) that says where the names are."""
        try:
            return self._models[name]
        except KeyError:
            raise InvalidField(field, "must be one of the models that GET /models lists") from None


def _weights(name: str, session_class: type[Any]) -> tuple[Weight, ...]:
    if name in REMBG:
        return (REMBG[name],)
    weights = tuple(
        Weight(
            name=name,
            file=f"{_FOLDER}/{file}",
            sha256=_checksum("sha256", known_hash),
            md5=_checksum("md5", known_hash),
            urls=(url,),
        )
        for url, known_hash, file in _downloads(session_class)
    )
    if any(weight.sha256 is None and weight.md5 is None for weight in weights):
        log.warning("rembg states no checksum for %s: it is taken from the operator only", name)
        return ()
    return weights


def _downloads(session_class: type[Any]) -> list[tuple[str, str | None, str]]:
    """(URL, checksum, file name) of all that the class would download with pooch.

    rembg states them nowhere else than in the calls, so the class gets a pooch that takes notes. A class
    that takes its file from the operator, or converts another's, does not call it.
    """
    download = session_class.download_models.__func__
    if "pooch" not in download.__code__.co_names:
        return []
    noted: list[tuple[str, str | None, str]] = []

    def note(url: str, known_hash: str | None, *, fname: str, **_: object) -> str:
        noted.append((url, known_hash, fname))
        return fname

    # No file of rembg's own folder is looked at, and none of its variables turns the checksums off.
    unseeing = type(
        session_class.__name__,
        (session_class,),
        {
            "resolve_existing": classmethod(lambda cls, *_, **__: None),
            "checksum_disabled": classmethod(lambda cls, *_, **__: False),
        },
    )
    scope = download.__globals__
    real = scope["pooch"]
    scope["pooch"] = types.SimpleNamespace(retrieve=note)
    try:
        unseeing.download_models()  # type: ignore[attr-defined]
    finally:
        scope["pooch"] = real
    return noted


def _checksum(kind: str, known_hash: str | None) -> str | None:
    """The digest in pooch's `<kind>:<digest>`, where a bare one is a SHA-256."""
    stated, _, digest = (known_hash or "").rpartition(":")
    return digest if digest and (stated or "sha256") == kind else None
