"""Real services behind a real nginx, with the tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from services import Services


@pytest.fixture(scope="session")
def three_instances(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Three instances behind nginx, for the whole session: starting them takes most of the tests' time."""
    services = Services(tmp_path_factory.mktemp("three"), instances=3)
    services.start()
    yield services
    services.stop()


@pytest.fixture
def services(three_instances: Services) -> Iterator[Services]:
    """The three, all up again whatever the test before killed, and idle again after the test."""
    if not three_instances.all_answer():
        three_instances.start()
    yield three_instances
    end_trainings(three_instances)


@pytest.fixture
def client(services: Services) -> Iterator[httpx.Client]:
    """A client of nginx."""
    with services.client() as client:
        yield client


@pytest.fixture
def one_instance(tmp_path: Path) -> Iterator[Services]:
    """One instance and nginx of their own, not started yet; stopped after the test whatever it did."""
    services = Services(tmp_path / "data", instances=1)
    yield services
    services.stop()


def end_trainings(services: Services) -> None:
    """Cancel what a test left running, so that the next finds free instances."""
    with services.client() as client:
        for path in (services.data_dir / "runs").glob("*.json"):
            client.delete(f"/train/{path.stem}")
