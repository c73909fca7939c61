from __future__ import annotations

import json
from typing import Annotated, Literal

import pytest
from enlight_common.schemas.strict import Strict
from enlight_common.web import create_app, parse_body
from flask.testing import FlaskClient
from pydantic import BaseModel, Field, field_validator

SECRET = "a value that must not come back"


class Weighted(BaseModel):
    model_id: str
    weight: Annotated[float, Field(ge=-2, le=2)] = 1.0


class Settings(Strict):
    steps: int = Field(400, ge=1, le=4000)
    rate: float | None = Field(None, gt=0, le=1)
    prompt: str = Field("", max_length=100)
    flag: bool = False
    either: bool | int = 0
    kind: Literal["lora", "full"] = "lora"
    several: Annotated[list[Weighted], Field(max_length=3)] = []
    table: dict[str, int] = {}
    main_process_port: int = Field(1, alias="MAIN_PROCESS_PORT")
    colour: str = "red"

    @field_validator("colour")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ("red", "blue"):
            raise ValueError("must be red or blue")
        return value


@pytest.fixture
def client() -> FlaskClient:
    app = create_app(__name__, max_body_bytes=100_000, ready=lambda: True)

    @app.post("/settings")
    def settings():
        return parse_body(Settings).model_dump()

    return app.test_client()


def send(client: FlaskClient, body: object, content_type: str = "application/json"):
    data = body if isinstance(body, bytes) else json.dumps(body)
    return client.post("/settings", data=data, content_type=content_type)


@pytest.mark.parametrize(
    ("body", "name", "value"),
    [
        pytest.param({"steps": "400"}, "steps", 400, id="a number as a string"),
        pytest.param({"steps": 400.0}, "steps", 400, id="a whole number with a point"),
        pytest.param({"rate": "2e-6"}, "rate", 2e-6, id="a small number as a string"),
        pytest.param({"rate": None}, "rate", None, id="null where it is allowed"),
        pytest.param({"either": True}, "either", True, id="a boolean where it is allowed"),
        pytest.param({"flag": "true"}, "flag", True, id="a boolean as a string"),
        pytest.param({"MAIN_PROCESS_PORT": "28900"}, "main_process_port", 28900, id="by its alias"),
        pytest.param({}, "steps", 400, id="the default"),
    ],
)
def test_takes_what_old_clients_send(client: FlaskClient, body: object, name: str, value: object):
    response = send(client, body)
    assert response.status_code == 200, response.get_json()
    assert response.get_json()[name] == value


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        pytest.param({"STEPS": 1}, "STEPS", "not a known field", id="an unknown key"),
        pytest.param(
            {"several": [{"model_id": "a", "x": 1}]}, "several[0].x", "not a known", id="unknown inside"
        ),
        pytest.param({"steps": 0}, "steps", "greater than or equal to 1", id="below the bound"),
        pytest.param({"steps": 10**9}, "steps", "less than or equal to 4000", id="above the bound"),
        pytest.param({"steps": 1.5}, "steps", "integer", id="a fraction for an integer"),
        pytest.param({"steps": SECRET}, "steps", "number", id="words for a number"),
        pytest.param({"steps": True}, "steps", "number", id="true for a number"),
        pytest.param({"steps": None}, "steps", "integer", id="null for a number"),
        pytest.param({"steps": [SECRET]}, "steps", "integer", id="a list for a number"),
        pytest.param({"steps": "1_000"}, "steps", "number", id="Python's way to write numbers"),
        pytest.param({"rate": "nan"}, "rate", "number", id="nan as a string"),
        pytest.param({"rate": "Infinity"}, "rate", "number", id="infinity as a string"),
        pytest.param({"rate": "1e309"}, "rate", "number", id="1e309 as a string"),
        pytest.param({"rate": False}, "rate", "number", id="false for an optional number"),
        pytest.param({"MAIN_PROCESS_PORT": True}, "MAIN_PROCESS_PORT", "number", id="true by an alias"),
        pytest.param(
            {"several": [{"model_id": "a", "weight": True}]}, "several[0].weight", "number", id="true inside"
        ),
        pytest.param(
            {"several": [{"model_id": "a", "weight": 9}]}, "several[0].weight", "2", id="a bound inside"
        ),
        pytest.param({"several": [{"weight": 1}]}, "several[0].model_id", "is required", id="missing inside"),
        pytest.param({"several": [{}] * 4}, "several", "at most 3", id="a list too long"),
        pytest.param({"table": {"a": True}}, "table.a", "number", id="true in a table"),
        pytest.param({"prompt": 1}, "prompt", "string", id="a number for a string"),
        pytest.param({"prompt": SECRET * 100}, "prompt", "at most 100", id="a string too long"),
        pytest.param({"kind": SECRET}, "kind", "'lora' or 'full'", id="none of the choices"),
        pytest.param({"colour": SECRET}, "colour", "red or blue", id="what a validator refuses"),
    ],
)
def test_names_the_field_and_the_bound_and_never_the_value(
    client: FlaskClient, body: object, field: str, reason: str
):
    response = send(client, body)
    problem = response.get_json()
    assert response.status_code == 422, problem
    assert problem["field"] == field
    assert reason in problem["detail"]
    assert problem["detail"].startswith(f"{field}: ")
    assert problem["message"] == problem["detail"]
    assert SECRET not in response.get_data(as_text=True)


def test_names_every_field_that_is_wrong(client: FlaskClient):
    problem = send(client, {"steps": 0, "rate": 5, "kind": "x"}).get_json()
    assert [error["field"] for error in problem["errors"]] == ["steps", "rate", "kind"]


def test_a_hostile_key_is_named_only_in_plain_characters(client: FlaskClient):
    problem = send(client, {"<script>\n\u202e" + "x" * 10_000: 1}).get_json()
    assert problem["field"].startswith("?script???xxx")
    assert len(problem["field"]) <= 64


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_refuses_other_media_types(client: FlaskClient, content_type: str):
    response = send(client, {}, content_type)
    assert response.status_code == 415
    assert response.content_type == "application/problem+json"


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "application/merge-patch+json"])
def test_takes_json_under_its_other_names(client: FlaskClient, content_type: str):
    assert send(client, {}, content_type).status_code == 200


@pytest.mark.parametrize("body", [b"[]", b"[" * 20_000, b"{", b'{"prompt": "\xff"}', b""])
def test_what_is_no_json_object_is_a_bad_request(client: FlaskClient, body: bytes):
    response = send(client, body)
    assert response.status_code == 400
    assert response.get_json()["type"] == "/problems/invalid-request"


def test_a_body_over_the_limit_is_refused(client: FlaskClient):
    assert send(client, {"prompt": "a" * 100_000}).status_code == 413
