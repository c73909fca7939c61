"""Files of weights: converted once, dropped in, refused where they hold more than weights."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from enlight_common.errors import InvalidField, StoreCorrupt, UnknownModel
from enlight_common.fetching import Fetches
from realesrgan_parts import FAST, WEIGHTS, HangingServer
from realesrgan_service.models import catalog as catalog_module
from realesrgan_service.models.catalog import Catalog
from realesrgan_service.models.conversion import NCNN_STEMS, convert_default_models, converted
from realesrgan_service.models.loading import blended, read_weights, upscaler_from
from realesrgan_service.models.ncnn import read_state_dict
from realesrgan_service.models.published import GENERAL, UPSCALERS
from running_process import until
from safetensors.torch import load_file

#: Each conversion leaves a line in the file of the third argument.
_CONVERT = """
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from realesrgan_service.models import conversion
plainly = conversion.converted
def converted(param, weights):
    with open(sys.argv[3], "a") as log:
        log.write(weights.stem + "\\n")
    return plainly(param, weights)
conversion.converted = converted
conversion.convert_default_models(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("name", "architecture", "tags"),
    [
        ("RealESRGAN_x4plus", "ESRGAN", ["64nf", "23nb"]),
        ("RealESRGAN_x4plus_anime_6B", "ESRGAN", ["64nf", "6nb"]),
        (FAST, "Compact", ["64nf", "16nc"]),
    ],
)
def test_the_converted_file_is_what_spandrel_knows(
    converted_models: Path, name: str, architecture: str, tags: list[str]
) -> None:
    model = upscaler_from(read_weights(converted_models / f"{name}.safetensors", "model_name"), "model_name")
    assert (model.architecture.id, model.scale, model.tags) == (architecture, 4, tags)


def test_no_weight_is_rounded(converted_models: Path) -> None:
    stem = WEIGHTS / "ncnn" / NCNN_STEMS[FAST]
    original = read_state_dict(stem.with_suffix(".param"), stem.with_suffix(".bin"))
    stored = load_file(converted_models / f"{FAST}.safetensors")
    assert stored.keys() == original.keys()
    assert all((stored[name].numpy() == original[name]).all() for name in original)


def test_processes_that_start_together_convert_once_and_leave_whole_files(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", _CONVERT, str(WEIGHTS), str(tmp_path / "models"), str(log)]
    started = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(120) for process in started] == [0, 0, 0]
    assert sorted(log.read_text().split()) == sorted(NCNN_STEMS.values())
    names = {path.name for path in (tmp_path / "models").iterdir() if not path.name.startswith(".")}
    assert names == {f"{name}.safetensors" for name in NCNN_STEMS}
    before = (tmp_path / "models" / f"{FAST}.safetensors").stat().st_mtime_ns
    convert_default_models(WEIGHTS, tmp_path / "models")
    assert (tmp_path / "models" / f"{FAST}.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("size", [0, 4, 1000, 1_247_364])
def test_a_damaged_ncnn_file_is_refused(tmp_path: Path, size: int) -> None:
    stem = WEIGHTS / "ncnn" / NCNN_STEMS[FAST]
    short = tmp_path / "short.bin"
    short.write_bytes(stem.with_suffix(".bin").read_bytes()[:size])
    with pytest.raises(StoreCorrupt):
        converted(stem.with_suffix(".param"), short)


def test_a_file_that_is_dropped_in_is_there_and_a_safetensors_goes_before_a_pth(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    assert catalog.files() == []
    for name in ("mine.pth", "mine.safetensors", "other.pth", ".hidden.pth", "a b.pth", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.pth").mkdir()
    assert [model.path.name for model in catalog.files()] == ["mine.safetensors", "other.pth"]


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "x\0y", "..", "mine.pth", "", "ünknown"])
def test_no_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path.parent / "x.pth").write_bytes(b"x")
    (tmp_path / "mine.pth").write_bytes(b"x")
    with pytest.raises(UnknownModel):
        Catalog(tmp_path).find(name)


def test_a_known_model_that_is_not_here_says_which_file_it_needs(tmp_path: Path) -> None:
    with pytest.raises(InvalidField, match=r"realesr-general-x4v3\.pth"):
        Catalog(tmp_path).find("realesr-general-x4v3")


def test_a_download_holds_up_nobody_who_asks_for_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hanging_server: HangingServer
) -> None:
    weights = {
        name: replace(
            UPSCALERS[name], urls=(hanging_server.url(name),), sha256=hashlib.sha256(b"x").hexdigest()
        )
        for name in ("RealESRGAN_x2plus", GENERAL)
    }
    monkeypatch.setattr(catalog_module, "UPSCALERS", weights)
    catalog = Catalog(tmp_path, Fetches())
    hanging_server.hangs.add("RealESRGAN_x2plus")
    with ThreadPoolExecutor() as pool, hanging_server.released_at_the_end():
        held = pool.submit(catalog.find, "RealESRGAN_x2plus")
        until(lambda: hanging_server.asked == ["RealESRGAN_x2plus"])
        assert catalog.find(GENERAL).bytes == 1
        assert not held.done()
        hanging_server.release()
        assert held.result().bytes == 1


class _WritesAFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", ["torch", "old torch", "plain"])
def test_a_pickle_that_writes_a_file_is_refused_and_writes_none(tmp_path: Path, kind: str) -> None:
    evil, written = tmp_path / "evil.pth", tmp_path / "written"
    content = {"params": {"body.0.weight": torch.zeros(1)}, "more": _WritesAFile(written)}
    if kind == "plain":
        evil.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, evil, _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(InvalidField, match="model_name"):
        read_weights(evil, "model_name")
    assert not written.exists()


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    traced = torch.jit.trace(torch.nn.Conv2d(3, 3, 3), torch.rand(1, 3, 8, 8))
    torch.jit.save(traced, tmp_path / "program.pth")
    with pytest.raises(InvalidField, match="more than weights"):
        read_weights(tmp_path / "program.pth", "model_name")


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"PK\x03\x04" + bytes(100), b"\x80\x04."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_no_weights_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(InvalidField):
        upscaler_from(read_weights(path, "model_name"), "model_name")


def test_a_blend_of_two_networks_is_their_weighted_mean() -> None:
    one, other = {"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([3.0, 6.0])}
    assert blended(one, other, 0.25)["a"].tolist() == [2.5, 5.0]
    with pytest.raises(InvalidField, match="denoise_strength"):
        blended(one, {"b": torch.tensor([1.0])}, 0.5)
