"""What test-containers.sh asks of the services, as a client of nginx. Standard library only.

container_client.py train URL NAME          trains a small model on the photos given with this project
container_client.py draw URL [MODEL]        draws one picture; it must be a PNG
container_client.py busy URL…               prints the number of the instance that draws, once one does
container_client.py lose URL                a drawing of minutes, which must end as a 502 that says so
"""

from __future__ import annotations

import base64
import json
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

PHOTOS = Path(__file__).resolve().parents[2] / "dreambooth-api/src/dreambooth_api/tiny/photos"
TIMEOUT_S = 900.0
POLL_S = 0.3


def post(url: str, body: dict[str, object]) -> tuple[int, dict[str, object]]:
    """Status and answer."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def train(url: str, name: str) -> None:
    photos = [base64.b64encode(path.read_bytes()).decode() for path in sorted(PHOTOS.glob("*.png"))]
    body: dict[str, object] = {
        "INSTANCE_PROMPT": "a sks shoe",
        "OUTPUT_DIR": name,
        "IMAGE_LIST": photos,
        "MAX_TRAINING_STEPS": 10,
    }
    expect(post(f"{url}/train", body), 200)


def draw(url: str, model: str | None = None) -> None:
    body: dict[str, object] = {"prompt": "a sks shoe", "num_image": 1, "num_inference_steps": 4, "seed": 1}
    answer = expect(post(f"{url}/inference", {**body, "model_id": model} if model else body), 200)
    images = answer["images"]
    assert isinstance(images, list)
    assert len(images) == 1
    assert base64.b64decode(images[0]).startswith(b"\x89PNG")


def busy(*urls: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        for number, url in enumerate(urls):
            with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
                found = re.search(r"^batch_pictures (\S+)", answer.read().decode(), re.MULTILINE)
            if found and float(found.group(1)) > 0:
                print(number)
                return
        time.sleep(POLL_S)
    sys.exit("no instance draws")


def lose(url: str) -> None:
    body: dict[str, object] = {"prompt": "a red ball", "num_image": 16, "num_inference_steps": 150}
    expect(post(f"{url}/inference", body), 502)


def expect(answer: tuple[int, dict[str, object]], status: int) -> dict[str, object]:
    """The body of an answer with that status; any other ends the program."""
    if answer[0] != status:
        sys.exit(f"{answer[0]} instead of {status}: {json.dumps(answer[1])[:500]}")
    return answer[1]


COMMANDS: dict[str, Callable[..., None]] = {"train": train, "draw": draw, "busy": busy, "lose": lose}

if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    COMMANDS[sys.argv[1]](*sys.argv[2:])
