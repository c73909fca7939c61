"""One main-api over real servers, shared by the tests that kill nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from facade_parts import Everything, everything
from main_api_servers import MainApi, MongoStandIn, RedisServer


@pytest.fixture(scope="session")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoStandIn]:
    with MongoStandIn(tmp_path_factory.mktemp("mongo")) as server:
        yield server


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def main_api(
    tmp_path_factory: pytest.TempPathFactory, mongo: MongoStandIn, redis: RedisServer
) -> Iterator[MainApi]:
    with MainApi(tmp_path_factory.mktemp("main-api"), mongo, redis) as server:
        yield server


@pytest.fixture(scope="session")
def everything_running(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[Everything]:
    """Shared by the tests of the façades."""
    with everything(tmp_path_factory.mktemp("facades"), redis) as found:
        yield found
