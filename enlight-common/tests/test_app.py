"""What every service's app does beside its own routes, through Flask's test client."""

from __future__ import annotations

import json
import logging

import pytest
from enlight_common import errors
from enlight_common.errors import Busy, EnlightError, InternalError, InvalidField
from enlight_common.schemas.strict import Strict
from enlight_common.web import (
    Event,
    LongLived,
    ServiceInfo,
    create_app,
    documented,
    preferred_wait,
    prefers_async,
    registry_of,
    sse,
)
from flask import Flask
from flask.testing import FlaskClient
from openapi_spec_validator import validate as validate_openapi
from prometheus_client import Counter
from pydantic import BaseModel, Field

STATE: dict[str, bool | str] = {}


class Answer(BaseModel):
    message: str
    images: list[str]


class Part(BaseModel):
    name: str


class Request(Strict):
    prompt: str = Field(max_length=10, description="What to draw")
    parts: list[Part] = []


@pytest.fixture
def app() -> Flask:
    STATE["ready"] = "loading the model"
    app = create_app(
        __name__,
        max_body_bytes=1000,
        ready=lambda: STATE["ready"],
        info=ServiceInfo("Sample", "2.0", "For tests"),
    )

    @app.post("/draw")
    @documented("Draw", body=Request, answers={200: Answer, 202: None}, tags=["pictures"])
    def draw():
        """Draws what the prompt says."""
        raise Busy("another one runs", retry_after=2.5)

    @app.get("/runs/<run_id>/pictures/<int:number>")
    @documented("One picture", answers={200: "image/png"})
    def picture(run_id: str, number: int):
        raise InvalidField("number", "must be at most 4", bound=4)

    @app.get("/crash")
    def crash():
        raise RuntimeError("the password is hunter2")

    @app.get("/broken")
    def broken():
        raise InternalError("the model's files are damaged")

    @app.get("/stream")
    def stream():
        return sse(iter([Event("a\nb\r\nc", event="x\ny", id=3), Event({"n": 1})]))

    @app.get("/preferences")
    def preferences():
        return {"async": prefers_async(), "wait": preferred_wait()}

    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def test_an_error_becomes_a_problem_document(client: FlaskClient):
    response = client.get("/runs/a/pictures/9", headers={"X-Request-Id": "abc"})
    assert response.status_code == 422
    assert response.content_type == "application/problem+json"
    assert response.get_json() == {
        "type": "/problems/invalid-field",
        "title": "A field of the request is not valid",
        "status": 422,
        "detail": "number: must be at most 4",
        "message": "number: must be at most 4",
        "instance": "/runs/a/pictures/9",
        "request_id": "abc",
        "field": "number",
        "bound": 4,
    }


def test_an_error_that_passes_says_when_to_come_back_in_whole_seconds(client: FlaskClient):
    response = client.post("/draw", json={})
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "3"


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [("GET", "/nothing", 404, "not-found"), ("DELETE", "/draw", 405, "method-not-allowed")],
)
def test_flasks_own_errors_are_problem_documents_too(
    client: FlaskClient, method: str, path: str, status: int, kind: str
):
    response = client.open(path, method=method)
    assert response.status_code == status
    assert response.content_type == "application/problem+json"
    assert response.get_json()["type"] == f"/problems/{kind}"
    assert response.get_json()["message"]


def test_405_says_what_is_allowed(client: FlaskClient):
    assert "POST" in client.get("/draw").headers["Allow"]


def test_an_unexpected_error_is_logged_and_its_inside_not_shown(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
):
    response = client.get("/crash")
    assert response.status_code == 500
    assert "hunter2" not in response.get_data(as_text=True)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "hunter2" in str(record.exc_info[1])


def test_a_known_internal_error_is_told_and_logged(client: FlaskClient, caplog: pytest.LogCaptureFixture):
    assert client.get("/broken").get_json()["detail"] == "the model's files are damaged"
    assert [record for record in caplog.records if record.levelno >= logging.ERROR]


def _all_errors() -> list[type[EnlightError]]:
    found = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, EnlightError)
    ]
    return sorted(found, key=lambda each: each.__name__)


def test_every_error_has_a_status_a_title_and_a_type_of_its_own():
    kinds = _all_errors()
    unnamed = {EnlightError, InternalError}
    types = [kind.type for kind in kinds if kind not in unnamed]
    assert len(set(types)) == len(types)
    assert all(400 <= kind.status < 600 and kind.title for kind in kinds)


def test_the_error_tree_in_the_docstring_names_every_error():
    assert all(kind.__name__ in str(errors.__doc__) for kind in _all_errors())


@pytest.mark.parametrize("offered", ["abc-1.2_3", "a" * 128])
def test_a_request_id_that_came_in_goes_out(client: FlaskClient, offered: str):
    assert client.get("/healthz", headers={"X-Request-Id": offered}).headers["X-Request-Id"] == offered


@pytest.mark.parametrize("offered", ["", "a b", "a" * 129, "<x>", "é"])
def test_a_request_id_that_is_not_fit_is_replaced(client: FlaskClient, offered: str):
    made = client.get("/healthz", headers={"X-Request-Id": offered}).headers["X-Request-Id"]
    assert made != offered
    assert len(made) == 32


def test_ready_says_why_not_and_then_that_it_is(client: FlaskClient):
    response = client.get("/readyz")
    assert (response.status_code, response.get_json()["message"]) == (503, "loading the model")
    STATE["ready"] = True
    assert client.get("/readyz").status_code == 200
    assert client.get("/healthz").get_json() == {"status": "ok"}


def test_metrics_count_requests_by_rule_and_never_by_path(app: Flask, client: FlaskClient):
    Counter("pictures", "Pictures drawn", registry=registry_of(app)).inc(3)
    for path in ("/runs/a/pictures/1", "/runs/b/pictures/2", "/nothing/secret-path"):
        client.get(path).close()
    client.open("/healthz", method="INVENTED").close()
    text = client.get("/metrics").get_data(as_text=True)
    rule = "/runs/<run_id>/pictures/<int:number>"
    assert f'requests_total{{method="GET",route="{rule}",status="422"}} 2.0' in text
    assert 'route="(none)",status="404"' in text
    assert 'method="OTHER"' in text
    assert f'request_seconds_count{{method="GET",route="{rule}"}} 2.0' in text
    assert "requests_in_flight 1.0" in text
    assert "pictures_total 3.0" in text
    assert "secret-path" not in text


def test_two_apps_in_one_process_count_apart():
    first, second = (create_app(name, max_body_bytes=10, ready=lambda: True) for name in ("first", "second"))
    assert registry_of(first) is not registry_of(second)


def test_the_api_document_is_valid_openapi_and_tells_what_the_views_say(client: FlaskClient):
    document = client.get("/openapi.json").get_json()
    validate_openapi(document)
    assert document["openapi"].startswith("3.1")
    assert document["info"] == {"title": "Sample", "version": "2.0", "description": "For tests"}
    draw = document["paths"]["/draw"]["post"]
    assert draw["summary"] == "Draw"
    assert draw["description"] == "Draws what the prompt says."
    assert draw["tags"] == ["pictures"]
    assert set(draw["responses"]) == {"200", "202", "default"}
    schema = draw["requestBody"]["content"]["application/json"]["schema"]
    name = schema["$ref"].removeprefix("#/components/schemas/")
    assert document["components"]["schemas"][name]["properties"]["prompt"]["maxLength"] == 10
    assert document["components"]["schemas"][name]["additionalProperties"] is False
    picture = document["paths"]["/runs/{run_id}/pictures/{number}"]["get"]
    assert [parameter["name"] for parameter in picture["parameters"]] == ["run_id", "number"]
    assert picture["parameters"][1]["schema"] == {"type": "integer"}
    assert "image/png" in picture["responses"]["200"]["content"]
    assert "/crash" not in document["paths"]


def test_the_page_to_browse_the_api_needs_nothing_from_elsewhere(client: FlaskClient):
    page = client.get("/docs")
    text = page.get_data(as_text=True)
    assert page.status_code == 200
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert "http" not in text
    linked = [part.split('"')[0] for part in text.replace('src="', 'href="').split('href="')[1:]]
    assert len(linked) == 3
    for path in linked:
        assert client.get(f"/{path}").status_code == 200, path
    assert "openapi.json" in client.get("/docs/start.js").get_data(as_text=True)


@pytest.mark.parametrize("path", ["/docs/other.js", "/docs/..%2f__init__.py", "/docs/../factory.py"])
def test_the_page_gives_out_its_own_files_only(client: FlaskClient, path: str):
    assert client.get(path).status_code == 404


def test_the_access_line_is_of_the_request_and_health_is_quiet(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    client.get("/nothing", headers={"X-Request-Id": "line"}).close()
    client.get("/healthz").close()
    (record,) = [record for record in caplog.records if record.name == "enlight.access"]
    fields = vars(record)
    assert (fields["method"], fields["route"], fields["status"]) == ("GET", "(none)", 404)
    assert fields["request_id"] == "line"


def test_an_event_is_written_as_the_standard_says(client: FlaskClient):
    text = client.get("/stream").get_data(as_text=True)
    events = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    assert events[0] == "id: 3\nevent: x y\ndata: a\ndata: b\ndata: c"
    assert json.loads(events[1].removeprefix("data: ")) == {"n": 1}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, {"async": False, "wait": None}),
        ("respond-async", {"async": True, "wait": None}),
        ("return=minimal, Respond-Async; x=1, wait=10", {"async": True, "wait": 10.0}),
        ("wait=10, wait=20", {"async": False, "wait": 10.0}),
        ('wait="7"', {"async": False, "wait": 7.0}),
        ("wait=99999999", {"async": False, "wait": 3600.0}),
        ("wait=nan, respond-asynchronously", {"async": False, "wait": None}),
    ],
)
def test_preferences_are_read_from_the_header(
    client: FlaskClient, header: str | None, expected: dict[str, object]
):
    headers = {} if header is None else {"Prefer": header}
    assert client.get("/preferences", headers=headers).get_json() == expected


def test_a_slot_released_twice_frees_one_place():
    slots = LongLived(2)
    first = slots.take("stream")
    slots.take("stream")
    first.release()
    first.release()
    assert slots.taken == 1


def test_a_full_house_is_said_at_once():
    slots = LongLived(1, retry_after=9)
    with slots.enter("picture"), pytest.raises(errors.Overloaded) as caught:
        slots.take("picture")
    assert caught.value.retry_after == 9


def test_a_place_left_by_an_error_is_free():
    slots = LongLived(1)
    with pytest.raises(ZeroDivisionError), slots.enter("picture"):
        raise ZeroDivisionError
    assert slots.taken == 0


def test_a_stream_that_is_never_read_gives_its_place_back(app: Flask):
    slots = LongLived(1)
    with app.test_request_context("/"):
        sse(iter([]), slot=slots.take("stream")).close()
    assert slots.taken == 0
