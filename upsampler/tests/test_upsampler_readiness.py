"""What is said of a service that is not ready, or has no time."""

from __future__ import annotations

import pytest
from picture_parts import in_base64
from running_process import until
from upsampler.app import create_app
from upsampler.service import Service
from upsampler.settings import UpsamplerSettings
from upsampler_parts import photo

BODY = {"image": in_base64(photo(350, 16)), "num_inference_steps": 1}


def test_a_load_that_fails_for_an_unknown_reason_is_said_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    service = Service(UpsamplerSettings())
    monkeypatch.setattr(service.engines, "get", broken)
    service.start()
    client = create_app(service).test_client()
    try:
        until(lambda: "could not be loaded (RuntimeError)" in client.get("/readyz").get_json()["message"])
        assert [record for record in caplog.records if record.exc_info]
    finally:
        service.drain(grace_s=0)
    assert client.get("/readyz").get_json()["message"] == "the service is shutting down"


def test_who_waits_for_the_decoding_of_anothers_picture_is_told_when_the_time_is_over(
    upsampler_service: Service,
) -> None:
    app = create_app(upsampler_service)
    with app.extensions["upsampler"].decoding.enter(lambda: False):
        late = app.test_client().post("/upsampler", json=BODY, headers={"Prefer": "wait=1"})
    assert late.status_code == 504
    assert "not finished within the time" in late.get_json()["message"]
    assert app.test_client().post("/upsampler", json=BODY).status_code == 200
