"""The client's side of the demo: trains a subject and draws it, over HTTP alone.

python dev-scripts/demo.py --url http://127.0.0.1:2333 --output demo-output
"""

from __future__ import annotations

import argparse
import base64
import io
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from contact_sheet import contact_sheet
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = ROOT / "dreambooth-api/src/dreambooth_api/tiny/photos"
MODEL_ID = "demo-shoe"
INSTANCE_PROMPT = "a sks shoe"
PROMPTS = (
    "a sks shoe on a yellow background",
    "a sks shoe at the beach",
    "a sks shoe in front of a blue wall",
    "a sks shoe in the snow",
)
SEED = 7
POLL_S = 0.5
TERMINAL = ("succeeded", "failed", "canceled")


class DemoFailed(Exception):
    """Something went wrong that a line of text explains."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Trains a subject and draws it.")
    parser.add_argument("--url", default="http://127.0.0.1:2333", help="where the services answer")
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="folder of the subject's photos")
    parser.add_argument("--output", type=Path, default=ROOT / "demo-output", help="folder for the pictures")
    arguments = parser.parse_args()
    # Its script ends it by TERM; it then leaves as on Ctrl-C, which bash keeps from background processes.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    timeout = httpx.Timeout(30.0, read=600.0)
    try:
        with httpx.Client(base_url=arguments.url, timeout=timeout) as client:
            run_demo(client, arguments.photos, arguments.output)
    except (DemoFailed, httpx.HTTPError) as error:
        print(f"demo: {error or type(error).__name__}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    return 0


def run_demo(client: httpx.Client, photos_folder: Path, output: Path) -> None:
    """Train, draw with both models, write the pictures and the sheet; says how long each took."""
    paths = sorted(photos_folder.glob("*.png"))
    if not paths:
        raise DemoFailed(f"there are no photos in {photos_folder}")
    output.mkdir(parents=True, exist_ok=True)

    print(f"training {INSTANCE_PROMPT!r} from {len(paths)} photos")
    started = time.monotonic()
    train(client, paths)
    trained_s = time.monotonic() - started

    print("drawing")
    started = time.monotonic()
    base = draw_all(client, None, output, "base")
    trained = draw_all(client, MODEL_ID, output, "trained")
    drawn_s = time.monotonic() - started

    sheet = contact_sheet(
        [
            (f"the photos: {INSTANCE_PROMPT}", [(path.stem, Image.open(path)) for path in paths]),
            ("the base model", list(zip(PROMPTS, base, strict=True))),
            ("the trained model", list(zip(PROMPTS, trained, strict=True))),
        ]
    )
    sheet_path = output / "contact-sheet.png"
    sheet.save(sheet_path)
    print(f"trained in {trained_s:.0f} s, drew {2 * len(PROMPTS)} pictures in {drawn_s:.0f} s")
    print(f"the pictures are in {output}; look at {sheet_path} first")


def train(client: httpx.Client, paths: Sequence[Path]) -> None:
    """Train and wait for the model, showing progress; a run that is left early is canceled."""
    body = {
        "INSTANCE_PROMPT": INSTANCE_PROMPT,
        "OUTPUT_DIR": MODEL_ID,
        "IMAGE_LIST": [base64.b64encode(path.read_bytes()).decode() for path in paths],
    }
    answer = client.post("/train", json=body, headers={"Prefer": "respond-async"})
    check(answer, "the training was not taken")
    run = answer.headers["Location"]
    finished = False
    try:
        state = follow(client, run)
        finished = True
    finally:
        if not finished:
            client.delete(run)
    if state["status"] != "succeeded":
        raise DemoFailed(f"the training {state['status']}: {state.get('error') or 'no reason was given'}")


def follow(client: httpx.Client, run: str) -> dict[str, Any]:
    """Ask for the run's state until it is a last one, which is returned."""
    progress = Progress()
    while True:
        answer = client.get(run)
        check(answer, "the training cannot be followed")
        state: dict[str, Any] = answer.json()
        if state["status"] in TERMINAL:
            progress.end()
            return state
        progress.show(state)
        time.sleep(POLL_S)


class Progress:
    """A bar on a terminal; elsewhere a line for each tenth."""

    WIDTH = 30

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._tenth = -1

    def show(self, state: dict[str, Any]) -> None:
        step, total = state.get("step") or 0, state.get("total") or 0
        if not total:
            return
        share = step / total
        loss, left = state.get("loss"), state.get("seconds_left")
        text = f"step {step} of {total}"
        text += "" if loss is None else f", loss {loss:.3f}"
        text += "" if left is None else f", {left:.0f} s left"
        if self._live:
            filled = round(share * self.WIDTH)
            print(f"\r  [{'#' * filled}{'.' * (self.WIDTH - filled)}] {text}\x1b[K", end="", flush=True)
        elif int(share * 10) > self._tenth:
            self._tenth = int(share * 10)
            print(f"  {text}", flush=True)

    def end(self) -> None:
        if self._live:
            print()


def draw_all(client: httpx.Client, model_id: str | None, output: Path, label: str) -> list[Image.Image]:
    """One picture for each prompt, from the same seeds whatever the model; written as <label>-<n>.png."""
    pictures: list[Image.Image] = []
    for index, prompt in enumerate(PROMPTS):
        body: dict[str, Any] = {"prompt": prompt, "num_image": 1, "seed": SEED + index}
        headers = {}
        if model_id is not None:
            body["model_id"] = model_id
            headers["X-Model-Id"] = model_id  # the instance that has it in memory
        answer = client.post("/inference", json=body, headers=headers)
        check(answer, "the picture was not drawn")
        data = base64.b64decode(answer.json()["images"][0])
        (output / f"{label}-{index + 1}.png").write_bytes(data)
        pictures.append(Image.open(io.BytesIO(data)))
        print(f"  {label} model: {prompt}", flush=True)
    return pictures


def check(answer: httpx.Response, what: str) -> None:
    """Raise DemoFailed with the service's own words for an answer that is an error."""
    if answer.is_success:
        return
    try:
        message = answer.json()["message"]
    except (ValueError, KeyError, TypeError):
        message = answer.reason_phrase
    raise DemoFailed(f"{what}: {answer.status_code}, {message}")


if __name__ == "__main__":
    sys.exit(main())
