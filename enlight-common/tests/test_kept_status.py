"""The kept calls' problems: a status of text, and said to be so."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from enlight_common.errors import InvalidField, Overloaded
from enlight_common.progress import Progresses
from enlight_common.schemas.flag import Flag
from enlight_common.schemas.strict import Strict
from enlight_common.web import LongLived, create_app, documented, kept_status, parse_body, progress
from enlight_common.web.kept_status import FAILURES, Greeting
from flask import Blueprint
from flask.testing import FlaskClient

PROGRESSES = Progresses()


class Wish(Strict):
    limited: Flag = "false"


@pytest.fixture
def client() -> FlaskClient:
    blueprint = Blueprint("kept", __name__)
    kept_status.install(blueprint)
    progress.install(blueprint, lambda: PROGRESSES)

    @blueprint.post("/upsampler")
    @documented("Enlarge", body=Wish, answers={200: Greeting, **FAILURES})
    def upsampler() -> dict[str, Any]:
        if parse_body(Wish).limited == "true":
            raise InvalidField("limited", "must be false")
        return {}

    app = create_app(__name__, max_body_bytes=1000, ready=lambda: True)
    app.register_blueprint(blueprint)
    return app.test_client()


@pytest.mark.parametrize("word", ["true", True])
def test_a_problem_says_false_and_the_number_is_https_own(client: FlaskClient, word: object):
    answer = client.post("/upsampler", json={"limited": word})
    assert (answer.status_code, answer.mimetype) == (422, "application/problem+json")
    problem = answer.get_json()
    assert (problem["status"], problem["field"]) == ("false", "limited")
    assert client.post("/upsampler", json={}).status_code == 200


def test_the_apis_document_says_so(client: FlaskClient):
    document = client.get("/openapi.json").get_json()
    for operation in (
        document["paths"]["/upsampler"]["post"],
        document["paths"]["/progress/{request_id}"]["get"],
    ):
        for status in ("400", "404", "422", "503", "504"):
            ((kind, content),) = operation["responses"][status]["content"].items()
            assert kind == "application/problem+json"
            name = content["schema"]["$ref"].rpartition("/")[2]
            assert document["components"]["schemas"][name]["properties"]["status"]["const"] == "false"


def test_progress_is_told_while_there_is_any(client: FlaskClient):
    with PROGRESSES.follow("a") as told:
        assert client.get("/progress/a").get_json()["state"] == "waiting"
        told.begin(10)
        assert client.get("/progress/a").get_json()["state"] == "upscaling"
    gone = client.get("/progress/a")
    assert (gone.status_code, gone.get_json()["status"]) == (404, "false")


def test_whether_there_is_a_place_can_be_asked_without_taking_it():
    places = LongLived(1)
    places.check("picture")
    with contextlib.ExitStack() as taken:
        taken.enter_context(places.enter("picture"))
        with pytest.raises(Overloaded):
            places.check("picture")
    assert places.taken == 0
