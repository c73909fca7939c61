"""One service with the small model for all tests of this package."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from bgrem.app import create_app
from bgrem.service import Service
from bgrem.settings import ServiceSettings
from bgrem_parts import SMALL, WEIGHTS_DIR, weights
from flask import Flask
from flask.testing import FlaskClient

_WITHIN_S = 300  # the first import of rembg's matting compiles it


@pytest.fixture(scope="session")
def bgrem_service() -> Iterator[Service]:
    weights()
    settings = ServiceSettings(
        weights_dir=WEIGHTS_DIR, default_model=SMALL, compute_threads=1, threads=16, max_body_mb=8
    )
    running = Service(settings)
    running.start()
    deadline = time.monotonic() + _WITHIN_S
    while running.refinements.ready is not True:
        assert time.monotonic() < deadline, (running.cutter.ready, running.refinements.ready)
        time.sleep(0.05)
    yield running
    running.drain(grace_s=5)


@pytest.fixture(scope="session")
def bgrem_app(bgrem_service: Service) -> Flask:
    return create_app(bgrem_service)


@pytest.fixture
def client(bgrem_app: Flask) -> FlaskClient:
    return bgrem_app.test_client()
