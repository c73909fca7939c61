"""Trainings over HTTP, with a real trainer behind it."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from dreambooth_api.models.bases import TINY, resolve_base
from dreambooth_api.routes.abandoned import AbandonedRuns
from dreambooth_api.schemas.training import TrainBody, TrainRequest
from dreambooth_api.service import Service
from enlight_common.errors import InvalidField, UnsupportedBaseModel
from flask.testing import FlaskClient
from service_parts import in_base64, photo
from waiting import until

WITHIN_S = 300
PHOTOS = [in_base64(photo(number)) for number in range(2)]
KEPT = {
    "INSTANCE_PROMPT": "a sks cup",
    "OUTPUT_DIR": "my-cup",
    "IMAGE_LIST": PHOTOS,
    "MAX_TRAINING_STEPS": 2,
    "RESOLUTION": 64,
}


def test_the_kept_request_trains_and_its_model_is_drawn_with(client: FlaskClient, service: Service) -> None:
    answer = client.post("/train", json=KEPT | {"LR": 2e-6, "MAIN_PROCESS_POR": 28900})
    body = answer.get_json()
    assert answer.status_code == 200, body
    assert body["model_id"] == "my-cup"
    assert (body["method"], body["learning_rate"], body["steps"]) == ("full", 2e-6, 2)
    with service.store.open("my-cup") as artifact:
        assert artifact.manifest.version == body["version"]
        assert artifact.manifest.method == "full"
    drawn = client.post(
        "/inference",
        json={"prompt": "a sks cup", "model_id": "my-cup", "num_image": 1, "num_inference_steps": 1},
    ).get_json()
    assert drawn["models"][0]["version"] == body["version"]


def test_a_training_is_followed_is_alone_lets_pictures_be_drawn_and_is_canceled(
    client: FlaskClient, service: Service
) -> None:
    request = KEPT | {"OUTPUT_DIR": "long", "MAX_TRAINING_STEPS": 20_000}
    started = client.post("/train", json=request, headers={"Prefer": "respond-async"})
    run = started.get_json()
    address = started.headers["Location"]
    assert started.status_code == 202
    assert (run["status"], run["method"], run["total"]) == ("processing", "lora", 20_000)
    assert run["run_id"].startswith("cpu0-")
    assert address == f"/train/{run['run_id']}"

    other = client.post("/train", json=KEPT | {"OUTPUT_DIR": "another"})
    assert other.status_code == 503
    assert int(other.headers["Retry-After"]) >= 1
    malformed = client.post("/train", json=KEPT | {"OUTPUT_DIR": "another", "RESOLUTION": 1})
    assert malformed.status_code == 422
    joined = client.post("/train", json=request, headers={"Prefer": "respond-async"})
    assert joined.get_json()["run_id"] == run["run_id"]

    until(lambda: client.get(address).get_json()["step"] >= 1)
    state = client.get(address).get_json()
    assert state["loss"] > 0
    assert state["seconds_left"] > 0
    drawn = client.post("/inference", json={"prompt": "a cup", "num_image": 1, "num_inference_steps": 1})
    assert drawn.status_code == 200
    waited = client.post("/train", json=request, headers={"Prefer": "wait=1"})
    assert (waited.status_code, waited.headers["Location"]) == (202, address)

    events = client.get(f"{address}/events")
    lines = iter(events.response)
    met = [next_event(lines), next_event(lines)]
    assert met[1]["id"] > met[0]["id"]
    canceled = client.delete(address)
    assert (canceled.status_code, canceled.get_json()["status"]) == (200, "canceled")
    rest = [event for line in lines for event in parsed(line)]
    assert rest[-1]["event"] == "canceled"
    events.close()
    resumed = client.get(f"{address}/events", headers={"Last-Event-ID": str(rest[-1]["id"] - 1)})
    assert [event["event"] for event in parsed(resumed.get_data(as_text=True))] == ["canceled"]
    assert client.delete(address).get_json()["status"] == "canceled"
    assert service.trainings.active is None


def parsed(text: str | bytes) -> list[dict[str, Any]]:
    """The events in a piece of a stream."""
    found = []
    for block in (text if isinstance(text, str) else text.decode()).split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if "data" in fields:
            data = json.loads(fields["data"])
            assert data["sequence"] == int(fields["id"])
            found.append({"id": int(fields["id"]), "event": fields["event"], "data": data})
    return found


def next_event(lines: Any) -> dict[str, Any]:
    while True:
        for event in parsed(next(lines)):
            return event


def body(**fields: Any) -> TrainRequest:
    return TrainBody.model_validate(KEPT | fields)


TINY_BASE = resolve_base(TINY)


@pytest.mark.parametrize(
    ("fields", "method", "rate"),
    [
        ({}, "lora", TINY_BASE.learning_rate["lora"]),
        ({"LR": 3e-6}, "full", 3e-6),
        ({"LR": "3e-6"}, "full", 3e-6),
        ({"LR": 3e-4, "METHOD": "lora"}, "lora", 3e-4),
        ({"METHOD": "full"}, "full", TINY_BASE.learning_rate["full"]),
        ({"LR": None}, "lora", TINY_BASE.learning_rate["lora"]),
    ],
)
def test_a_rate_without_a_method_means_a_full_fine_tune(
    fields: dict[str, Any], method: str, rate: float
) -> None:
    options = body(**fields).options(TINY_BASE)
    assert (options.method, options.learning_rate) == (method, rate)


def test_kept_names_and_the_options_own_in_capitals_reach_the_training() -> None:
    options = body(
        MAX_TRAINING_STEPS=7,
        TRAIN_BATCH_SIZE=2,
        GRADIENT_ACCUMULATION_STEPS=3,
        LR_SCHEDULER="cosine",
        LR_WARMUP_STEPS=4,
        CAPTION_LIST=["one", "two"],
        RANK=16,
        ALPHA=8,
        SEED=5,
        TRAIN_TEXT_ENCODER=True,
        SNR_GAMMA=5,
        CLASS_PROMPT="a cup",
        NUM_CLASS_IMAGES=12,
        PRIOR_LOSS_WEIGHT=0.5,
        CHECKPOINT_INTERVAL=50,
        VALIDATION_PROMPT="a sks cup",
    ).options(TINY_BASE)
    assert (options.steps, options.batch_size, options.gradient_accumulation_steps) == (7, 2, 3)
    assert (options.lr_scheduler, options.lr_warmup_steps, options.captions) == ("cosine", 4, ("one", "two"))
    assert (options.rank, options.alpha, options.seed, options.train_text_encoder) == (16, 8, 5, True)
    prior = options.prior_preservation
    assert prior is not None
    assert (prior.class_prompt, prior.num_class_images, prior.weight) == ("a cup", 12, 0.5)
    assert (options.checkpoint_interval, options.validation_prompt) == (50, "a sks cup")


def test_another_base_is_trained_on_by_its_name_or_an_old_one() -> None:
    options = body(MODEL_NAME="runwayml/stable-diffusion-v1-5").options(TINY_BASE)
    assert options.base_model == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert options.resolution == 64
    with pytest.raises(UnsupportedBaseModel, match="MODEL_NAME"):
        body(MODEL_NAME="nobody/nothing").options(TINY_BASE)


def test_photos_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [image.size for image in body().photos()] == [(96, 96), (96, 96)]
    monkeypatch.setattr("dreambooth_api.schemas.training.MAX_TOTAL_PIXELS", 96 * 96 * 2 - 1)
    with pytest.raises(InvalidField, match="IMAGE_LIST"):
        body().photos()


def test_a_run_is_given_up_when_the_last_who_waits_leaves() -> None:
    given_up: list[str] = []
    runs = AbandonedRuns(given_up.append)
    for _ in range(2):
        runs.join(lambda: "a", keep=False)
    runs.leave("a")
    assert given_up == []
    runs.leave("a")
    assert given_up == ["a"]
    runs.join(lambda: "kept", keep=False)
    runs.leave("kept", keep=True)
    runs.join(lambda: "asynchronous", keep=True)
    runs.join(lambda: "asynchronous", keep=False)
    runs.leave("asynchronous")
    assert given_up == ["a"]


def test_a_run_is_not_given_up_while_somebody_joins_it() -> None:
    given_up: list[str] = []
    runs = AbandonedRuns(given_up.append)
    runs.join(lambda: "a", keep=False)
    leaver = threading.Thread(target=runs.leave, args=("a",))

    def start() -> str:
        leaver.start()  # the only one who waited goes while the next one comes
        leaver.join(0.2)
        return "a"

    runs.join(start, keep=False)
    leaver.join()
    assert given_up == []
    runs.leave("a")
    assert given_up == ["a"]


def test_photos_are_decoded_for_one_training_at_a_time(
    client: FlaskClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dreambooth_api.routes import train
    from dreambooth_api.routes.context import context_of

    monkeypatch.setattr(train, "_DECODING_S", 0.05)
    lock: threading.Lock = context_of(client.application).decoding
    with lock:
        answer = client.post("/train", json=KEPT)
    assert answer.status_code == 503
    assert service.trainings.active is None


def test_a_training_that_was_only_waited_for_goes_on_after_the_wait(
    client: FlaskClient, service: Service
) -> None:
    request = KEPT | {"OUTPUT_DIR": "waited", "MAX_TRAINING_STEPS": 20_000}
    answer = client.post("/train", json=request, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (202, "wait=1")
    address = answer.headers["Location"]
    assert client.get(address).get_json()["status"] == "processing"
    assert client.delete(address).get_json()["status"] == "canceled"


def test_a_run_whose_instance_is_gone_is_told_to_be_interrupted(
    client: FlaskClient, service: Service
) -> None:
    request = KEPT | {"OUTPUT_DIR": "orphan", "MAX_TRAINING_STEPS": 20_000}
    mine = client.post("/train", json=request, headers={"Prefer": "respond-async"}).get_json()
    runs = service.settings.data_dir / "runs"
    foreign = mine | {"run_id": mine["run_id"].replace("cpu0-", "cpu9-"), "instance": "cpu9"}
    (runs / f"{foreign['run_id']}.json").write_text(json.dumps(foreign))
    # Somebody is at its workspace, so it may well be going on.
    assert client.get(f"/train/{foreign['run_id']}").get_json()["status"] == "processing"
    client.delete(f"/train/{mine['run_id']}")
    told = client.get(f"/train/{foreign['run_id']}").get_json()
    assert (told["status"], told["error_kind"]) == ("failed", "interrupted")
