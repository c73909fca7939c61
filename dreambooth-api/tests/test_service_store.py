"""Two machines with one object store between them: what one trains the other draws."""

from __future__ import annotations

from pathlib import Path

from service_parts import from_base64, in_base64, photo
from service_process import running_service
from storage_backends import BUCKET, Backend

pytest_plugins = ("storage_servers",)

TRAINING = {
    "INSTANCE_PROMPT": "a sks cup",
    "OUTPUT_DIR": "my-cup",
    "IMAGE_LIST": [in_base64(photo(number)) for number in range(2)],
    "MAX_TRAINING_STEPS": 2,
    "RESOLUTION": 64,
}
DRAWING = {"prompt": "a sks cup", "model_id": "my-cup", "num_image": 1, "num_inference_steps": 2, "seed": 3}


def test_a_model_trained_on_one_machine_is_drawn_on_another_and_deleted_from_both(
    amazon: Backend, tmp_path: Path
) -> None:
    shared = {
        "MODEL_STORE_URL": f"s3://{BUCKET}/models-of-two",
        "AWS_ENDPOINT_URL_S3": amazon.url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "OMP_NUM_THREADS": "1",
    }
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    with running_service(tmp_path / "here", **shared) as here:
        here.until_ready()
        trained = here.client.post("/train", json=TRAINING)
        assert trained.status_code == 200, trained.text
        assert not any((tmp_path / "here" / "data" / "training").iterdir())
        drawn_here = here.client.post("/inference", json=DRAWING).json()
        assert here.metric("model_cache_misses_total") == 0
        with running_service(tmp_path / "there", **shared) as there:
            there.until_ready()
            drawn = there.client.post("/inference", json=DRAWING)
            assert drawn.status_code == 200, drawn.text
            assert drawn.json()["models"][0]["version"] == trained.json()["version"]
            pictures = [from_base64(answer["images"][0]) for answer in (drawn_here, drawn.json())]
            assert pictures[0].tobytes() == pictures[1].tobytes()
            assert there.metric("model_cache_misses_total") == 1
            assert there.metric("model_cache_fetched_bytes_total") > 0
            (listed,) = there.client.get("/models").json()["models"]
            assert listed["cached"]
            assert listed["loaded"]
            assert there.client.delete("/models/my-cup").status_code == 204
            assert there.client.post("/inference", json=DRAWING).status_code == 404
        assert here.client.get("/models").json()["models"] == []
