"""What nginx answers without an instance, and what it adds to the instances' answers."""

from __future__ import annotations

import re
import socket

import httpx
import pytest
from services import Services, drawing, wait_until


@pytest.mark.parametrize("path", ["/train", "/inference"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_a_413_that_names_it(client: httpx.Client, path: str, chunked: bool) -> None:
    body = b"x" * 5_000_000
    content = iter([body[:2_500_000], body[2_500_000:]]) if chunked else body
    answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "/problems/payload-too-large"
    assert problem["status"] == 413
    assert "4 MB" in problem["message"]


def test_what_is_no_http_is_a_400_as_problem_json(services: Services) -> None:
    with socket.create_connection(("127.0.0.1", services.port)) as connection:
        connection.sendall(b"NO SUCH\x01 THING\r\n\r\n")
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer
    assert b'"message":' in answer


def test_nginx_tells_its_own_health_and_not_its_version(client: httpx.Client) -> None:
    answer = client.get("/nginx-health")
    assert answer.status_code == 200
    assert answer.headers["Server"] == "nginx"


def test_a_request_id_goes_in_and_out_once_and_into_both_logs(
    services: Services, client: httpx.Client
) -> None:
    answer = client.post("/inference", json=drawing(), headers={"X-Request-Id": "my-request.1"})
    assert answer.headers.get_list("X-Request-Id") == ["my-request.1"]
    (name,) = services.asked("my-request.1")
    wait_until(lambda: "my-request.1" in services.log(name), "the instance's own log entry")
    entry = services.access("my-request.1")
    assert entry["status"] == 200
    assert entry["upstream_status"] == "200"
    assert float(entry["upstream_seconds"]) <= entry["seconds"] + 0.01


@pytest.mark.parametrize("sent", ["", "two words", 'quote"', "x" * 65, "{}"])
def test_a_request_id_that_is_none_is_replaced(client: httpx.Client, sent: str) -> None:
    answer = client.get("/healthz", headers={"X-Request-Id": sent})
    assert answer.status_code == 200
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-Id"])


def test_metrics_are_asked_of_one_instance_by_name(services: Services, client: httpx.Client) -> None:
    assert client.get("/metrics").status_code == 404
    assert client.get("/metrics/cpu9").status_code == 404
    before = services.metric("cpu2", 'requests_total{method="GET",route="/metrics",status="200"}')
    answer = client.get("/metrics/cpu2")
    assert answer.status_code == 200
    assert "requests_total" in answer.text
    after = services.metric("cpu2", 'requests_total{method="GET",route="/metrics",status="200"}')
    assert after == before + 2  # the one through nginx, and the first of the two beside it


def test_the_answer_of_an_error_page_cannot_be_asked_for(client: httpx.Client) -> None:
    assert client.get("/__problem").status_code == 404


def test_what_an_instance_says_of_an_error_passes_untouched(client: httpx.Client) -> None:
    answer = client.get("/no-such-page")
    assert answer.status_code == 404
    assert answer.json()["instance"] == "/no-such-page"
