"""Replicate's own client against main-api, with nothing changed but its address."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import pytest
import replicate
from background_parts import OtherServer, Reply, claimed, complete, picture
from enlight_common.storage import put_bytes
from facade_parts import Everything
from main_api_servers import Api
from PIL import Image
from replicate.exceptions import ModelError, ReplicateError
from waiting import until

BASE = "enlight/tiny-sd"
VERSION = "enlight--tiny-sd"


@pytest.fixture
def tenant(everything_running: Everything) -> Api:
    return everything_running.main_api.as_tenant("rep")


@pytest.fixture
def client(everything_running: Everything, tenant: Api) -> replicate.Client:
    found = replicate.Client(api_token=tenant.key, base_url=f"{everything_running.main_api.url}/replicate")
    found.poll_interval = 0.05
    return found


@pytest.fixture
def node(everything_running: Everything) -> Api:
    return everything_running.main_api.as_node()


def test_run_draws_and_gives_the_files(client: replicate.Client) -> None:
    inputs = {"prompt": "a red ball", "num_outputs": 2, "num_inference_steps": 2, "seed": 4}
    for reference in (BASE, f"{BASE}:{VERSION}"):
        output = client.run(reference, input=inputs)
        # The client makes files of https URLs only; those of the tests are plain ones.
        images = [Image.open(io.BytesIO(httpx.get(str(one)).content)) for one in output]
        assert [image.size for image in images] == [(128, 128)] * 2


def test_a_prediction_that_is_waited_for_is_done(client: replicate.Client) -> None:
    found = client.predictions.create(
        version=VERSION, input={"prompt": "a ball", "num_inference_steps": 1, "output_format": "jpg"}, wait=30
    )
    assert found.status == "succeeded"
    assert (found.model, found.version) == (BASE, VERSION)
    assert found.input == {"prompt": "a ball", "num_inference_steps": 1, "output_format": "jpg"}
    assert Image.open(io.BytesIO(httpx.get(found.output[0]).content)).format == "JPEG"
    assert found.metrics is not None
    assert found.metrics["predict_time"] > 0


def test_a_prediction_goes_from_starting_to_its_end_and_is_polled(
    client: replicate.Client, node: Api
) -> None:
    found = client.predictions.create(version=VERSION, input={"prompt": "a ball"})
    assert found.status == "starting"
    claim = claimed(node, found.id)
    renewal = {"fencing": claim["fencing"], "progress": {"fraction": 0.5, "step": 5, "total": 10}}
    node.post(f"/internal/v1/jobs/{found.id}/renewal", json=renewal)
    found.reload()
    assert found.status == "processing"
    assert found.progress is not None
    assert (found.progress.percentage, found.progress.current, found.progress.total) == (0.5, 5, 10)
    complete(node, claim)
    found.wait()
    assert found.status == "succeeded"
    assert len(found.output) == 1


def test_a_prediction_is_canceled(client: replicate.Client) -> None:
    found = client.predictions.create(version=VERSION, input={"prompt": "a ball"})
    found.cancel()
    assert client.predictions.get(found.id).status == "canceled"
    assert client.predictions.cancel(found.id).status == "canceled"


def test_a_prediction_that_fails_raises_its_error(client: replicate.Client, node: Api) -> None:
    found = client.predictions.create(version=VERSION, input={"prompt": "a ball"})
    complete(node, claimed(node, found.id), status="failed", error={"type": "odd", "message": "too odd"})
    found.reload()
    assert (found.status, found.error) == ("failed", "too odd")
    with pytest.raises(ModelError, match="scheduler"):
        client.run(BASE, input={"prompt": "a ball", "scheduler": "no such"})


def test_predictions_are_listed_page_by_page_and_only_the_tenants(
    client: replicate.Client, everything_running: Everything
) -> None:
    other = everything_running.main_api.as_tenant("rep-pages")
    url = f"{everything_running.main_api.url}/replicate"
    pages = replicate.Client(api_token=other.key, base_url=url)
    made = [pages.predictions.create(version=VERSION, input={"prompt": f"{n}"}).id for n in range(25)]
    other.generation()  # not made through this API
    listed = [
        one.id for page in replicate.pagination.paginate(pages.predictions.list) for one in page.results
    ]
    assert listed == made[::-1]
    assert len(pages.predictions.list().results) == 20
    with pytest.raises(ReplicateError) as refused:
        client.predictions.get(made[0])
    assert refused.value.status == 404
    for one in other.get("/v1/jobs?limit=100").json()["jobs"]:
        other.post(f"/v1/jobs/{one['id']}/cancel")


def test_a_file_is_uploaded_and_used_as_an_input(client: replicate.Client, node: Api) -> None:
    found = client.predictions.create(
        version=VERSION, input={"prompt": "a ball", "image": io.BytesIO(picture(64)), "prompt_strength": 0.5}
    )
    claim = claimed(node, found.id)
    assert claim["input"]["strength"] == 0.5
    assert httpx.get(claim["images"]["image"]).content == picture(64)
    complete(node, claim)
    inline = client.predictions.create(
        version=VERSION,
        input={"prompt": "a ball", "image": io.BytesIO(picture(64))},
        file_encoding_strategy="base64",
    )
    claim = claimed(node, inline.id)
    assert httpx.get(claim["images"]["image"]).content == picture(64)
    complete(node, claim)


def test_webhooks_come_in_replicates_shape_and_its_check_accepts_them(
    client: replicate.Client, node: Api
) -> None:
    with OtherServer(lambda got: Reply(200)) as receiver:
        found = client.predictions.create(
            version=VERSION,
            input={"prompt": "a ball"},
            webhook=f"{receiver.url}/hook",
            webhook_events_filter=["start", "completed"],
        )
        complete(node, claimed(node, found.id))
        until(lambda: len(receiver.received) == 2, "both webhooks")
        told = [replicate.prediction.Prediction(**got.json) for got in receiver.received]
        assert {one.id for one in told} == {found.id}
        assert told[-1].status == "succeeded" or told[0].status == "succeeded"
        secret = client.webhooks.default.secret()
        for got in receiver.received:
            replicate.webhook.Webhooks.validate(
                headers=dict(got.headers), body=got.body.decode(), secret=secret
            )


def test_a_training_makes_a_version_that_can_be_run(
    client: replicate.Client, node: Api, everything_running: Everything
) -> None:
    client.models.create("rep", "shoe", visibility="private", hardware="gpu")
    training = client.trainings.create(
        model=BASE,
        version=VERSION,
        input={
            "input_images": [io.BytesIO(picture(64)), io.BytesIO(picture(48))],
            "trigger_word": "a sks shoe",
            "steps": 100,
        },
        destination="rep/shoe",
    )
    assert training.status == "starting"
    claim: dict[str, Any] = {}
    until(lambda: claim.update(node.claim(kinds=("training",)) or {}) or claim, "the training")
    assert claim["job_id"] == training.id
    assert claim["input"]["MAX_TRAINING_STEPS"] == 100
    assert len(claim["photos"]) == 2
    store_model(everything_running, "rep", "shoe", "v1")
    model = {"model_id": "shoe", "version": "v1"}
    complete(node, claim, status="succeeded", output={"model": model})

    training = client.trainings.get(training.id)
    assert training.status == "succeeded"
    assert training.destination == "rep/shoe"
    version = training.output["version"]
    assert version == "rep/shoe:shoe@v1"
    assert [one.id for one in client.trainings.list().results] == [training.id]
    found = client.models.get("rep/shoe")
    assert found.latest_version is not None
    assert found.latest_version.id == "shoe@v1"
    assert [one.id for one in found.versions.list()] == ["shoe@v1"]
    assert [one.name for one in client.models.list().results] == ["shoe"]

    for reference in ({"version": "shoe@v1"}, {"model": "rep/shoe"}, {"version": version}):
        prediction = client.predictions.create(input={"prompt": "a sks shoe"}, **reference)  # type: ignore[call-overload]
        assert prediction.model == "rep/shoe"
        claim = claimed(node, prediction.id)
        assert claim["input"]["model_id"].partition("@")[0] == "shoe"
        complete(node, claim)


def store_model(everything: Everything, tenant: str, model_id: str, version: str) -> None:
    """What a training leaves in the model store."""
    service = everything.main_api.service()
    manifest = {"schema_version": 1, "base": {"name": BASE}, "method": "lora", "files": []}
    key = f"models/{tenant}/{model_id}/{version}/model.json"
    put_bytes(service.models.store, key, json.dumps(manifest).encode())
    service.database.close()


def test_a_training_is_canceled(client: replicate.Client) -> None:
    training = client.trainings.create(
        f"{BASE}:{VERSION}",
        {"instance_prompt": "a sks shoe", "photos": [io.BytesIO(picture(64))]},
        "rep/other",
    )
    training.cancel()
    assert client.trainings.get(training.id).status == "canceled"


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ({}, "prompt"),
        ({"prompt": "a ball", "image": "http://169.254.169.254/latest"}, "input.image"),
        ({"prompt": "a ball", "num_outputs": 99}, "num_images"),
        ({"prompt": "a ball", "unknown": 1}, "unknown"),
        ({"prompt": "a ball", "metadata": {}}, "input.metadata"),
        ({"prompt": "a ball", "num_outputs": 1, "num_images": 1}, "input.num_images"),
    ],
)
def test_a_wrong_input_is_named(tenant: Api, inputs: dict[str, Any], field: str) -> None:
    answer = tenant.post("/replicate/v1/predictions", json={"version": VERSION, "input": inputs})
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] == field


def test_what_is_another_tenants_or_nobodys_is_not_found(
    client: replicate.Client, everything_running: Everything
) -> None:
    for version in ("nobody", "somebody/shoe:shoe@v1", "shoe@v9", "base"):
        with pytest.raises(ReplicateError) as refused:
            client.predictions.create(version=version, input={"prompt": "a ball"})
        assert refused.value.status == 404
    with pytest.raises(ReplicateError) as foreign:
        client.trainings.create(
            f"{BASE}:{VERSION}", {"trigger_word": "x", "photos": ["data:,"]}, "somebody/shoe"
        )
    assert foreign.value.status == 422
    wrong = replicate.Client(api_token="wrong", base_url=f"{everything_running.main_api.url}/replicate")
    with pytest.raises(ReplicateError) as unauthorized:
        wrong.predictions.list()
    assert unauthorized.value.status == 401
