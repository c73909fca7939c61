"""Pictures over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dreambooth_api.models.store import ModelStore
from dreambooth_api.service import Service
from flask.testing import FlaskClient
from service_parts import SAME, difference, from_base64, in_base64, photo, publish_adapter

QUICK = {"prompt": "a blue cup", "num_image": 1, "num_inference_steps": 2, "seed": 3}


def draw(client: FlaskClient, **fields: Any) -> dict[str, Any]:
    answer = client.post("/inference", json=QUICK | fields)
    body: dict[str, Any] = answer.get_json()
    assert answer.status_code == 200, body
    return body


def test_the_kept_request_gives_ten_pictures_of_the_base_models_size(client: FlaskClient) -> None:
    answer = client.post("/inference", json={"prompt": "a blue cup", "num_inference_steps": 1})
    body = answer.get_json()
    assert body["message"] == "Inference is done."
    assert len(body["images"]) == 10
    pictures = [from_base64(text) for text in body["images"]]
    assert all((picture.format, picture.size) == ("PNG", (128, 128)) for picture in pictures)
    assert body["seeds"] == list(range(body["seeds"][0], body["seeds"][0] + 10))


def test_a_drawn_seed_draws_the_same_pictures_again(client: FlaskClient) -> None:
    one = draw(client, seed=None, num_image=2)
    other = draw(client, seed=one["seeds"][1])
    assert difference(from_base64(one["images"][1]), from_base64(other["images"][0])) <= SAME


def test_a_png_tells_how_it_was_made(client: FlaskClient, store: ModelStore) -> None:
    version = publish_adapter(store, "cup", seed=1).manifest.version
    body = draw(client, model_id="cup", negative_prompt="färgglad", num_image=2, scheduler="euler_a")
    text = from_base64(body["images"][1]).text  # type: ignore[attr-defined]
    assert text["prompt"] == "a blue cup"
    assert text["negative_prompt"] == "färgglad"
    assert (text["seed"], text["model"], text["version"]) == ("4", "cup", version)
    assert text["base"] == "enlight/tiny-sd"
    settings = json.loads(text["settings"])
    assert settings["scheduler"] == "euler_a"
    assert settings["num_inference_steps"] == 2
    assert settings["models"] == [{"model_id": f"cup@{version}", "weight": 1.0}]
    assert body["settings"] == settings
    assert (body["model"], body["models"][0]["version"]) == ("cup", version)


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_other_formats_come_when_asked_for(client: FlaskClient, name: str) -> None:
    body = draw(client, format=name)
    assert body["format"] == name
    assert from_base64(body["images"][0]).format == name.upper()


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"size": 64}, (64, 64)),
        ({"width": 192}, (192, 128)),
        ({"width": 64, "height": 192}, (64, 192)),
        ({"size": "64"}, (64, 64)),
    ],
)
def test_the_size_is_the_one_asked_for(
    client: FlaskClient, fields: dict[str, Any], size: tuple[int, int]
) -> None:
    body = draw(client, **fields)
    assert from_base64(body["images"][0]).size == size
    assert (body["settings"]["width"], body["settings"]["height"]) == size


def test_a_picture_and_a_mask_are_drawn_upon(client: FlaskClient) -> None:
    picture, mask = in_base64(photo(), "JPEG"), in_base64(photo(1))
    body = draw(client, image="data:image/jpeg;base64," + picture, strength=0.5)
    assert body["settings"]["mode"] == "image"
    assert body["settings"]["strength"] == 0.5
    assert draw(client, image=picture, mask=mask)["settings"]["mode"] == "inpaint"


def test_several_models_are_drawn_with_at_once(client: FlaskClient, store: ModelStore) -> None:
    for number, name in enumerate(("left", "right")):
        publish_adapter(store, name, seed=40 + number)
    chosen = [{"model_id": "left", "weight": 0.5}, {"model_id": "right"}]
    body = draw(client, models=chosen)
    assert [(use["model_id"], use["weight"]) for use in body["models"]] == [("left", 0.5), ("right", 1.0)]
    assert body["model"] is None


def test_a_cut_prompt_is_told(client: FlaskClient) -> None:
    assert draw(client, prompt="cup " * 200)["truncated_prompt"].endswith("cup")
    assert draw(client)["truncated_prompt"] is None


def test_stored_models_are_listed_and_deleted(client: FlaskClient, store: ModelStore) -> None:
    old, new = (publish_adapter(store, "passing", seed=seed).manifest.version for seed in (1, 2))
    draw(client, model_id="passing")
    mine = [model for model in client.get("/models").get_json()["models"] if model["model_id"] == "passing"]
    assert [(model["version"], model["loaded"]) for model in mine] == [(new, True), (old, False)]
    assert all(model["cached"] and model["cached_bytes"] > model["bytes"] for model in mine)
    assert mine[0]["last_used"] > mine[1]["last_used"]
    assert 0.5 * mine[0]["bytes"] < mine[0]["loaded_bytes"] < 2 * mine[0]["bytes"]
    assert mine[1]["loaded_bytes"] == 0
    assert client.delete(f"/models/passing@{new}").status_code == 204
    assert draw(client, model_id="passing")["models"][0]["version"] == old
    assert client.delete("/models/passing").status_code == 204
    assert client.post("/inference", json=QUICK | {"model_id": "passing"}).status_code == 404


def test_metrics_count_pictures_and_models(client: FlaskClient, store: ModelStore) -> None:
    def value(name: str) -> float:
        lines = client.get("/metrics").get_data(as_text=True).splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))

    fetched = value("model_cache_misses_total")
    publish_adapter(store, "counted", seed=1)
    pictures, hits, misses = (
        value("pictures_total"),
        value("models_loaded_hits_total"),
        value("models_loaded_misses_total"),
    )
    for _ in range(2):
        draw(client, model_id="counted", num_image=2)
    assert value("pictures_total") == pictures + 4
    assert (value("models_loaded_hits_total"), value("models_loaded_misses_total")) == (hits + 1, misses + 1)
    assert value("model_cache_misses_total") == fetched, "what is published is at hand"
    assert 0 < value("model_cache_bytes") < value("model_cache_max_bytes")
    assert value("models_loaded") >= 1
    assert value("base_model_ready") == 1
    assert value("drawings_waiting") == 0


def test_the_document_shows_every_route_and_bound(client: FlaskClient) -> None:
    document = client.get("/openapi.json").get_json()
    assert {"/train", "/train/{run_id}", "/train/{run_id}/events", "/inference", "/models"} <= set(
        document["paths"]
    )
    schemas = document["components"]["schemas"]
    train, inference = schemas["TrainBody"]["properties"], schemas["InferenceBody"]["properties"]
    assert {"LR", "MAX_TRAINING_STEPS", "MAIN_PROCESS_POR", "METHOD", "CAPTION_LIST", "CLASS_PROMPT"} <= set(
        train
    )
    assert train["MAX_TRAINING_STEPS"]["anyOf"][0]["maximum"] == 20_000
    assert inference["num_image"]["maximum"] == 16
    assert set(schemas["TrainBody"]["required"]) == {"INSTANCE_PROMPT", "OUTPUT_DIR", "IMAGE_LIST"}
    assert client.get("/docs").status_code == 200


def test_before_the_base_model_is_loaded_the_service_says_so(tmp_path: Any) -> None:
    from dreambooth_api.app import create_app
    from dreambooth_api.settings import ServiceSettings

    early = Service(ServiceSettings(data_dir=tmp_path, threads=16))
    client = create_app(early).test_client()
    assert client.get("/healthz").status_code == 200
    answer = client.get("/readyz")
    assert (answer.status_code, "loaded" in answer.get_json()["message"]) == (503, True)
    answer = client.post("/inference", json=QUICK)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
