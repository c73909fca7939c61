"""What depends on real sockets, on a real gunicorn with the settings that the services use."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
from contextlib import ExitStack

import httpx
import pytest
from served_app_limits import MAX_BODY_BYTES, THREADS

from conftest import Server, wait_until


def seen(server: Server) -> dict[str, int]:
    return httpx.get(f"{server.url}/seen", timeout=30).json()


def post_head(path: str, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers, "", ""]
    return "\r\n".join(lines).encode()


def answer_to(server: Server, raw: bytes) -> str:
    with server.connect() as client:
        client.sendall(raw)
        return read_all(client)


def read_all(client: socket.socket) -> str:
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts).decode()


def test_healthz_answers_while_all_long_places_are_taken_and_the_rest_get_503_at_once(server: Server):
    before = seen(server)["held"]
    with ExitStack() as clients:
        sockets = [clients.enter_context(server.connect()) for _ in range(300)]
        for client in sockets:
            client.sendall(b"GET /hold HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert wait_until(lambda: seen(server)["held"] - before == THREADS // 2)
        assert httpx.get(f"{server.url}/healthz", timeout=30).json() == {"status": "ok"}
        refused = []

        def collect_refusals() -> bool:
            for client in sockets:
                client.setblocking(False)
                try:
                    text = client.recv(65536).decode()
                except BlockingIOError:
                    continue
                if text:
                    refused.append(text)
            return len(refused) == 300 - THREADS // 2

        assert wait_until(collect_refusals)
        assert all("503" in text.split("\r\n")[0] for text in refused)
        assert all("Retry-After: 7" in text for text in refused)
    assert wait_until(lambda: seen(server)["taken"] == 0)


def test_healthz_answers_while_hundreds_of_clients_are_connected_and_silent(server: Server):
    with ExitStack() as clients:
        for _ in range(300):
            clients.enter_context(server.connect())
        assert httpx.get(f"{server.url}/healthz", timeout=15).status_code == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost:", id="stops in the head"),
        pytest.param(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n", id="does not read the answer"),
    ],
)
def test_clients_that_stall_do_not_hold_the_threads(server: Server, request_bytes: bytes):
    with ExitStack() as clients:
        for _ in range(THREADS + 4):
            clients.enter_context(server.connect()).sendall(request_bytes)
        assert httpx.get(f"{server.url}/healthz", timeout=30).status_code == 200


def test_clients_that_keep_their_end_open_do_not_hold_up_others(server: Server):
    with ExitStack() as clients:
        for _ in range(100):
            client = clients.enter_context(server.connect())
            client.sendall(b"GET /seen HTTP/1.0\r\n\r\n")
        # gunicorn's own way would wait 2 s for each of them.
        assert httpx.get(f"{server.url}/healthz", timeout=30).status_code == 200


def test_a_client_that_goes_away_frees_its_place(server: Server):
    before = seen(server)
    with server.connect() as client:
        client.sendall(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wait_until(lambda: seen(server)["held"] == before["held"] + 1)
    assert wait_until(lambda: seen(server)["gone"] == before["gone"] + 1)
    assert wait_until(lambda: seen(server)["taken"] == 0)


def test_an_event_stream_sends_its_events_and_keeps_the_connection_alive(server: Server):
    with httpx.stream("GET", f"{server.url}/events", timeout=30) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["X-Accel-Buffering"] == "no"
        lines = []
        for line in response.iter_lines():
            lines.append(line)
            if line == ": keep-alive":
                break
    assert [line for line in lines if line.startswith("id: ")] == ["id: 1", "id: 2", "id: 3"]
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert data == [{"number": 1}, {"number": 2}, {"number": 3}]
    assert wait_until(lambda: seen(server)["taken"] == 0)


def test_an_event_stream_goes_on_after_the_last_event_the_client_saw(server: Server):
    headers = {"Last-Event-ID": "2"}
    with httpx.stream("GET", f"{server.url}/events", headers=headers, timeout=30) as response:
        first = next(line for line in response.iter_lines() if line.startswith("id: "))
    assert first == "id: 3"


def test_a_client_that_takes_its_events_a_few_bytes_at_a_time_is_cut_off(server: Server):
    with server.connect() as client:
        client.sendall(b"GET /large-events HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wait_until(lambda: seen(server)["taken"] == 1)

        def cut_off() -> bool:
            client.recv(2000)
            return seen(server)["taken"] == 0

        # It takes something all the time: the socket's own timeout, of 5 s here, never passes.
        assert wait_until(cut_off)


def test_a_client_that_takes_much_at_a_good_pace_gets_all_of_it(server: Server):
    with httpx.stream("GET", f"{server.url}/large-events", timeout=30) as response:
        assert sum(len(part) for part in response.iter_bytes()) > 100_000_000


def test_an_event_stream_ends_when_its_client_goes_away(server: Server):
    before = seen(server)["streams"]
    with server.connect() as client:
        client.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(10)
        assert seen(server)["streams"] == before + 1
    assert wait_until(lambda: seen(server)["closed"] == before + 1)
    assert wait_until(lambda: seen(server)["taken"] == 0)


@pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, 2 * MAX_BODY_BYTES])
def test_a_client_that_sends_all_of_a_body_over_the_limit_can_read_the_413(server: Server, size: int):
    # This one reads nothing before it has sent everything, as most do; a reset would end it with an OSError.
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    body = b'{"text": "'.ljust(size, b"a")
    connection.request("POST", "/length", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 413
    assert str(MAX_BODY_BYTES) in json.loads(response.read())["detail"]
    connection.close()


def test_a_chunked_body_is_read_and_one_over_the_limit_refused(server: Server):
    def post(size: int) -> httpx.Response:
        parts = iter([b'{"text": "', *[b"a" * 100_000] * (size // 100_000), b'"}'])
        headers = {"Content-Type": "application/json"}
        return httpx.post(f"{server.url}/length", content=parts, headers=headers, timeout=30)

    assert post(200_000).json() == {"length": 200_000}
    assert post(MAX_BODY_BYTES + 100_000).status_code == 413


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(
            post_head("/length", "Content-Length: 1000", "Connection: close") + b'{"text": "', id="long"
        ),
        pytest.param(
            post_head("/length", "Transfer-Encoding: chunked", "Connection: close") + b'3e8\r\n{"text": "',
            id="chunked",
        ),
    ],
)
def test_a_body_that_drips_is_refused_with_408(server: Server, start: bytes):
    with server.connect() as client:
        client.sendall(start)
        client.settimeout(0.2)
        text = b""
        for _ in range(300):
            try:
                text += client.recv(65536)
            except TimeoutError:
                client.sendall(b"a")
                continue
            break
    assert text.startswith(b"HTTP/1.1 408 ")


def test_a_body_that_ends_before_its_length_is_refused(server: Server):
    with server.connect() as client:
        client.sendall(post_head("/length", "Content-Length: 1000") + b'{"text": "a"}')
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).startswith("HTTP/1.1 400 ")


def test_a_body_with_broken_chunks_is_refused(server: Server):
    raw = post_head("/length", "Transfer-Encoding: chunked") + b"zz\r\nabc\r\n"
    text = answer_to(server, raw)
    assert text.startswith("HTTP/1.1 400 ")
    assert "application/problem+json" in text


def test_twenty_thousand_brackets_are_a_400(server: Server):
    response = httpx.post(
        f"{server.url}/length",
        content=b"[" * 20_000,
        headers={"Content-Type": "application/json"},
        timeout=30,
    )
    assert response.status_code == 400
    assert "32" in response.json()["detail"]


def test_the_log_is_json_with_one_access_line_for_a_request_and_none_for_health(server: Server):
    headers = {"X-Request-Id": "line-1", "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}
    httpx.get(f"{server.url}/seen", headers=headers, timeout=30)
    httpx.get(f"{server.url}/healthz", headers={"X-Request-Id": "line-2"}, timeout=30)

    def lines() -> list[dict[str, object]]:
        return [json.loads(line) for line in server.log.read_text().splitlines()]

    assert wait_until(lambda: any(line.get("request_id") == "line-1" for line in lines()))
    (line,) = [line for line in lines() if line.get("request_id") == "line-1"]
    assert line["method"] == "GET"
    assert line["route"] == "/seen"
    assert line["status"] == 200
    assert line["traceparent"] == headers["traceparent"]
    assert isinstance(line["seconds"], float)
    assert line["level"] == "INFO"
    assert str(line["time"]).endswith("Z")
    assert not [line for line in lines() if line.get("request_id") == "line-2"]


def test_sigterm_lets_a_request_in_flight_finish(server: Server):
    with server.connect() as client:
        client.sendall(post_head("/length", "Content-Length: 13", "Connection: close") + b'{"text"')
        before = seen(server)  # a round trip, so that the worker has the half request
        assert before["taken"] == 0
        os.kill(server.pid, signal.SIGTERM)
        client.sendall(b": " + b'"a"}')
        assert read_all(client).startswith("HTTP/1.1 200 ")
