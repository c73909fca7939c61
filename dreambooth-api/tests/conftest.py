"""One service with the tiny model for all tests of this package: loading it takes seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from enlight_common import openmp

# Before torch is imported, as the service's start does.
os.environ.update({**openmp.WAITING, **os.environ})

import pytest
from dreambooth_api.app import create_app
from dreambooth_api.inference.engine import Engine
from dreambooth_api.models.store import ModelStore
from dreambooth_api.service import Service
from dreambooth_api.settings import ServiceSettings
from flask import Flask
from flask.testing import FlaskClient

_LOADED_WITHIN_S = 120
_SLOW_S = 2400  # for what takes four minutes on cores of its own


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: what is left for last decides how long two workers take."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(_SLOW_S))
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = ServiceSettings(data_dir=tmp_path_factory.mktemp("service"), threads=16, max_body_mb=8)
    running = Service(settings)
    running.start()
    deadline = time.monotonic() + _LOADED_WITHIN_S
    while running.ready is not True:
        assert time.monotonic() < deadline, running.ready
        time.sleep(0.05)
    yield running
    running.drain(grace_s=5)


@pytest.fixture(scope="session")
def app(service: Service) -> Flask:
    return create_app(service)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture(scope="session")
def engine(service: Service) -> Engine:
    return service.engine


@pytest.fixture(scope="session")
def store(service: Service) -> ModelStore:
    return service.store
