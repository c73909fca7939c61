"""One service with the tiny model for all tests of this package: loading it takes seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from enlight_common import openmp

# Before torch is imported, as the service's start does; no test may reach for a hub.
os.environ.update({**openmp.WAITING, "HF_HUB_OFFLINE": "1", **os.environ})

import pytest
from flask.testing import FlaskClient
from upsampler.app import create_app
from upsampler.diffusion import DiffusionEngine
from upsampler.models import TINY, TINY_FOLDER, resolve_upscaler
from upsampler.service import Service
from upsampler.settings import UpsamplerSettings
from upsampler_parts import save_swin2sr

_LOADED_WITHIN_S = 120


@pytest.fixture(scope="session")
def upsampler_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    weights = tmp_path_factory.mktemp("weights")
    save_swin2sr(weights / "upsampler" / "random-x4")
    settings = UpsamplerSettings(weights_dir=weights, swin2sr="random-x4", threads=16, max_body_mb=8)
    running = Service(settings)
    running.start()
    deadline = time.monotonic() + _LOADED_WITHIN_S
    while running.loaded.ready is not True:
        assert time.monotonic() < deadline, running.loaded.ready
        time.sleep(0.05)
    yield running
    running.drain(grace_s=5)


@pytest.fixture
def upsampler_client(upsampler_service: Service) -> FlaskClient:
    return create_app(upsampler_service).test_client()


@pytest.fixture(scope="session")
def tiny_x4(tmp_path_factory: pytest.TempPathFactory) -> DiffusionEngine:
    upscaler = resolve_upscaler(TINY, tmp_path_factory.mktemp("no-weights"))
    return DiffusionEngine(upscaler, TINY_FOLDER, "cpu")
