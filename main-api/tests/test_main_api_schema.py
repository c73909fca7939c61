"""Every operation of the OpenAPI document, with hostile requests, with and without a key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from drawing_instance import Instance
from hypothesis import HealthCheck, Phase, given, settings
from main_api_servers import MainApi, MongoStandIn, RedisServer
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
FEW = settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def open_api(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[MainApi]:
    """A main-api of its own, whose records may be deleted by what is tried."""
    folder, instance = tmp_path_factory.mktemp("schema"), Instance()
    with MongoStandIn(folder) as mongo, MainApi(folder, mongo, redis, DREAMBOOTH_URL=instance.url) as server:
        yield server
    instance.shutdown()


@pytest.fixture(scope="module")
def document(open_api: MainApi) -> Any:
    return schemathesis.openapi.from_url(f"{open_api.url}/openapi.json")


@pytest.fixture(scope="module")
def keys(open_api: MainApi) -> dict[str, str]:
    """Whose key opens what: an administrator's, that of a reader, a node's."""
    quotas = {"requests_a_minute": 1_000_000, "max_queued": 1_000_000}
    admin = open_api.as_tenant("schema", **quotas)
    return {"admin": admin.key, "node": open_api.as_node().key}


def each_operation(document: Any, check: Callable[[Any], None]) -> list[str]:
    """Try requests of every kind for each operation; what went wrong, and how many operations there were."""
    problems, count = [], 0
    for found in document.get_all_operations():
        operation = found.ok()
        count += 1

        @FEW
        @given(case=operation.as_strategy())
        def try_it(case: Any) -> None:
            check(case)

        try:
            try_it()
        except (Exception, FailureGroup) as error:
            problems.append(f"{operation.label}: {error}")
    assert count > 20
    return problems


def test_nothing_breaks_with_a_key_and_every_answer_is_in_the_document(
    document: Any, keys: dict[str, str]
) -> None:
    def check(case: Any) -> None:
        key = keys["node" if str(case.operation.path).startswith("/internal/") else "admin"]
        headers = {name: value for name, value in (case.headers or {}).items() if name != "X-Api-Key"}
        if isinstance(case.body, dict) and "wait_s" in case.body:
            case.body["wait_s"] = 0
        answer = case.call(headers={**headers, "Authorization": f"Bearer {key}"}, timeout=60)
        case.validate_response(answer, checks=CHECKS)

    problems = each_operation(document, check)
    assert not problems, "\n\n".join(problems)


def test_without_a_key_nothing_that_asks_for_one_is_reachable(document: Any) -> None:
    def check(case: Any) -> None:
        case.headers = {}
        answer = case.call(timeout=60)
        if case.operation.definition.raw.get("security"):
            # The method or the address may be one that there is not.
            assert answer.status_code in (401, 404, 405), answer.text
        case.validate_response(answer, checks=CHECKS)

    problems = each_operation(document, check)
    assert not problems, "\n\n".join(problems)
