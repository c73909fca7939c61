"""The weights, converted once, and one service with the fast network for all tests of this package."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from realesrgan_parts import FAST, WEIGHTS, HangingServer
from realesrgan_service.app import create_app
from realesrgan_service.models.conversion import convert_default_models
from realesrgan_service.service import Service
from realesrgan_service.settings import ServiceSettings
from running_process import WITHIN_S


@pytest.fixture(scope="session")
def converted_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three default upscalers."""
    folder = tmp_path_factory.mktemp("converted")
    convert_default_models(WEIGHTS, folder)
    return folder


@pytest.fixture(scope="session")
def models_dir(converted_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service's own copy, into which tests drop files."""
    return Path(shutil.copytree(converted_models, tmp_path_factory.mktemp("service") / "models"))


@pytest.fixture(scope="session")
def service(models_dir: Path) -> Iterator[Service]:
    settings = ServiceSettings(
        weights_dir=WEIGHTS,
        models_dir=models_dir,
        model=FAST,
        fetch_models=False,
        threads=16,
        precision="fp32",
    )
    running = Service(settings)
    running.start()
    deadline = time.monotonic() + WITHIN_S
    while running.loaded.ready is not True:
        assert time.monotonic() < deadline, running.loaded.ready
        time.sleep(0.05)
    yield running
    running.drain(grace_s=5)


@pytest.fixture
def client(service: Service) -> FlaskClient:
    return create_app(service).test_client()


@pytest.fixture
def hanging_server() -> Iterator[HangingServer]:
    server = HangingServer()
    yield server
    server.close()
