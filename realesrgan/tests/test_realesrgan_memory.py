"""Memory: what made room for another network is freed, and what does not suffice is said."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import torch
from enlight_common.errors import OutOfMemory
from flask.testing import FlaskClient
from realesrgan_parts import FAST, photo, request
from realesrgan_service.models.catalog import Catalog
from realesrgan_service.service import Service
from realesrgan_service.upscaling import engine as engine_module
from realesrgan_service.upscaling import network as network_module
from realesrgan_service.upscaling import openvino_part
from realesrgan_service.upscaling.engine import Choice, Engine
from realesrgan_service.upscaling.torch_part import TorchPart


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Python does not look for circles of objects meanwhile."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def engine(converted_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """On PyTorch, with room for one network, and a second one in its folder."""
    monkeypatch.setattr(openvino_part, "available", lambda: False)
    monkeypatch.setattr(network_module, "_WARM_UP_SIDE", 16)
    for name in (FAST, "another"):
        shutil.copyfile(converted_models / f"{FAST}.safetensors", tmp_path / f"{name}.safetensors")
    return Engine(Catalog(tmp_path), "cpu", "fp32", max_loaded=1)


def choose(engine: Engine, name: str) -> Choice:
    return engine.choose(engine._catalog.find(name), None, lambda: False)


def test_a_network_that_made_room_is_freed_at_once(engine: Engine, no_collection: None) -> None:
    part = cast(TorchPart, engine.network(choose(engine, FAST)).head)
    weights = weakref.ref(next(part._module.parameters()))
    del part
    assert weights() is not None
    engine.network(choose(engine, "another"))
    assert list(engine.loaded) == ["another"]
    assert weights() is None


def test_a_network_that_finds_no_memory_is_not_loaded(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "network_of", lambda *_: torch.empty(2**50))
    with pytest.raises(OutOfMemory, match=f"{FAST} was not loaded"):
        engine.network(choose(engine, FAST))
    assert engine.loaded == {}


def test_the_machines_memory_that_does_not_suffice_is_a_503(
    client: FlaskClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(service.networks[FAST], "head", lambda *_: torch.empty(2**50))
        refused = client.post("/upsampler", json=request(photo(172, 20)))
    assert (refused.status_code, refused.get_json()["type"]) == (503, "/problems/out-of-memory")
    assert "smaller tile" in refused.get_json()["message"]
    assert client.post("/upsampler", json=request(photo(172, 20))).status_code == 200
