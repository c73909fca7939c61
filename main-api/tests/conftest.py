"""One main-api over real servers, shared by the tests that kill nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import pytest
from facade_parts import Everything, everything
from main_api_servers import MainApi, MongoStandIn, RedisServer, Server

Running = TypeVar("Running", bound=Server)


@pytest.fixture(scope="session")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoStandIn]:
    yield from _running(MongoStandIn(tmp_path_factory.mktemp("mongo")))


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    yield from _running(RedisServer(tmp_path_factory.mktemp("redis")))


@pytest.fixture(scope="session")
def main_api(
    tmp_path_factory: pytest.TempPathFactory, mongo: MongoStandIn, redis: RedisServer
) -> Iterator[MainApi]:
    yield from _running(MainApi(tmp_path_factory.mktemp("main-api"), mongo, redis))


def _running(server: Running) -> Iterator[Running]:
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def everything_running(
    tmp_path_factory: pytest.TempPathFactory, mongo: MongoStandIn, redis: RedisServer
) -> Iterator[Everything]:
    """Shared by the tests of the façades."""
    with everything(tmp_path_factory.mktemp("facades"), mongo, redis) as found:
        yield found
