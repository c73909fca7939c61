"""The client's side of the demo: trains a subject, draws it and finishes one picture, through main-api alone.

python dev-scripts/demo.py --url http://127.0.0.1:8040 --key-file data/secrets/admin.key --output demo-output
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from contact_sheet import Row, contact_sheet
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
WAIT_S = 60  # that main-api may hold a request open
JOB_S = 3600.0  # the longest that a job may take, its wait included; on a CPU a training takes minutes
PAUSE_S = 1.0  # before a stream of events that ended is opened again
UPSCALED = 1100  # pixels of the longer side
#: What follows the drawing in one request, and how the sheet calls each step's picture.
CHAIN = (
    {"kind": "background_removal"},
    # The quickest of the shipped networks: on a CPU x4plus takes minutes for this.
    {"kind": "upscale", "engine": "gan", "model": "realesr-animevideov3", "resolution": UPSCALED},
)
STEP_LABELS = {
    "generation": "drawn",
    "background_removal": "its background removed",
    "upscale": f"enlarged to {UPSCALED} pixels",
}
TERMINAL = ("succeeded", "failed", "canceled")

Job = dict[str, Any]


class DemoFailed(Exception):
    """Something went wrong that a line of text explains."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Trains a subject, draws it, cuts it out and enlarges it.")
    parser.add_argument("--url", default="http://127.0.0.1:8040", help="where main-api answers")
    parser.add_argument("--key-file", type=Path, default=ROOT / "data/secrets/admin.key")
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="folder of the subject's photos")
    parser.add_argument("--output", type=Path, default=ROOT / "demo-output", help="folder for the pictures")
    arguments = parser.parse_args()
    # Its script ends it by TERM; it then leaves as on Ctrl-C, which bash keeps from background processes.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        key = arguments.key_file.read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        timeout = httpx.Timeout(30.0, read=WAIT_S + 60.0)
        with httpx.Client(base_url=arguments.url, timeout=timeout, headers=headers) as client:
            run_demo(client, arguments.photos, arguments.output)
    except (DemoFailed, httpx.HTTPError, OSError) as error:
        print(f"demo: {error or type(error).__name__}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    return 0


def run_demo(client: httpx.Client, photos_folder: Path, output: Path) -> None:
    """Train, draw with both models, finish one picture, write pictures and sheet; says how long each took."""
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

    print("drawing, removing the background, enlarging, in one request")
    started = time.monotonic()
    finished = draw_and_finish(client, output)
    finished_s = time.monotonic() - started

    rows: list[Row] = [
        (f"the photos: {INSTANCE_PROMPT}", [(path.stem, Image.open(path)) for path in paths]),
        ("the base model", list(zip(PROMPTS, base, strict=True))),
        ("the trained model", list(zip(PROMPTS, trained, strict=True))),
        ("one request: drawn, cut out, enlarged", finished),
    ]
    sheet_path = output / "contact-sheet.png"
    contact_sheet(rows).save(sheet_path)
    print(
        f"trained in {trained_s:.0f} s, drew {2 * len(PROMPTS)} pictures in {drawn_s:.0f} s,"
        f" drew and finished one in {finished_s:.0f} s"
    )
    print(f"the pictures are in {output}; look at {sheet_path} first")


def train(client: httpx.Client, paths: Sequence[Path]) -> None:
    """Train and wait for the model, showing progress; a job that is left early is canceled."""
    photos = [base64.b64encode(path.read_bytes()).decode() for path in paths]
    photo_set = asked(client, "/v1/photo-sets", {"name": "demo", "photos": photos})
    body = {"model_id": MODEL_ID, "instance_prompt": INSTANCE_PROMPT, "photo_set": photo_set["id"]}
    job = follow(client, asked(client, "/v1/trainings", body))
    if job["status"] != "succeeded":
        raise DemoFailed(f"the training {ended(job)}")


def draw_all(client: httpx.Client, model_id: str | None, output: Path, label: str) -> list[Image.Image]:
    """One picture for each prompt, from the same seeds whatever the model; written as <label>-<n>.png."""
    pictures: list[Image.Image] = []
    for index, prompt in enumerate(PROMPTS):
        body: dict[str, Any] = {"prompt": prompt, "seed": SEED + index}
        if model_id is not None:
            body["model_id"] = model_id
        job = asked(client, "/v1/generations", body, {"Prefer": f"wait={WAIT_S}"})
        if job["status"] not in TERMINAL:
            job = follow(client, job)
        if job["status"] != "succeeded":
            raise DemoFailed(f"the drawing {ended(job)}")
        pictures.append(fetched(client, job["output"]["pictures"][0], output / f"{label}-{index + 1}.png"))
        print(f"  {label} model: {prompt}", flush=True)
    return pictures


def draw_and_finish(client: httpx.Client, output: Path) -> list[tuple[str, Image.Image]]:
    """A picture and what the chain's steps made of it; written as finished-<n>-<step>.png."""
    body = {"prompt": PROMPTS[0], "model_id": MODEL_ID, "seed": SEED, "then": CHAIN}
    job = follow(client, asked(client, "/v1/generations", body))
    if job["status"] != "succeeded":
        raise DemoFailed(f"the chain {ended(job)}")
    pictures = []
    for number, step in enumerate(job["output"]["steps"], 1):
        path = output / f"finished-{number}-{step['kind']}.png"
        pictures.append((STEP_LABELS[step["kind"]], on_checks(fetched(client, step["pictures"][0], path))))
    return pictures


def asked(
    client: httpx.Client, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> dict[str, Any]:
    """What main-api answers to a POST; raises DemoFailed with its own words for an error."""
    answer = client.post(path, json=body, headers=headers)
    check(answer, f"POST {path} was refused")
    found: dict[str, Any] = answer.json()
    return found


def follow(client: httpx.Client, job: Job) -> Job:
    """The job at its end, its progress shown as its events arrive; one that is left before is canceled."""
    progress = Progress()
    deadline = time.monotonic() + JOB_S
    try:
        while job["status"] not in TERMINAL:
            if time.monotonic() > deadline:
                raise DemoFailed(f"the job {job['id']} did not end within {JOB_S:.0f} s")
            with client.stream("GET", job["urls"]["events"]) as answer:
                if not answer.is_success:
                    answer.read()
                    check(answer, "the job cannot be followed")
                for name, data in events(until(deadline, answer.iter_lines())):
                    if name != "picture":
                        job = data
                        progress.show(job)
            if job["status"] not in TERMINAL:
                time.sleep(PAUSE_S)
    finally:
        progress.end()
        if job["status"] not in TERMINAL:
            client.post(job["urls"]["cancel"])
    return job


def until(deadline: float, lines: Iterator[str]) -> Iterator[str]:
    """The lines that come before that monotonic time; streams are kept alive by comments for as long as one
    listens.
    """
    for line in lines:
        if time.monotonic() > deadline:
            return
        yield line


def events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """(name, data) of each server-sent event; comments are left out."""
    name, data = "message", ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data += value
        elif not line and data:
            yield name, json.loads(data)
            name, data = "message", ""


def fetched(client: httpx.Client, picture: dict[str, Any], path: Path) -> Image.Image:
    """The picture behind its signed URL, which needs no key; written to *path*."""
    answer = client.get(picture["url"])
    check(answer, "a picture cannot be fetched")
    path.write_bytes(answer.content)
    return Image.open(io.BytesIO(answer.content))


def on_checks(picture: Image.Image) -> Image.Image:
    """What is transparent in it, shown as a chequered ground."""
    if "A" not in picture.getbands():
        return picture
    cell = max(1, picture.width // 16)
    ground = Image.new("RGBA", picture.size, "white")
    for top in range(0, picture.height, cell):
        for left in range(top // cell % 2 * cell, picture.width, 2 * cell):
            ground.paste((205, 205, 205, 255), (left, top, left + cell, top + cell))
    return Image.alpha_composite(ground, picture.convert("RGBA"))


def ended(job: Job) -> str:
    reason = (job["error"] or {}).get("message", "no reason was given")
    return f"{job['status']}: {reason}"


class Progress:
    """A bar on a terminal; elsewhere a line for each tenth."""

    WIDTH = 30

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._tenth = -1

    def show(self, job: Job) -> None:
        state = job["progress"] or {}
        share = state.get("fraction")
        if share is None:
            return
        text = self._text(state)
        if self._live:
            filled = round(share * self.WIDTH)
            print(f"\r  [{'#' * filled}{'.' * (self.WIDTH - filled)}] {text}\x1b[K", end="", flush=True)
        elif int(share * 10) > self._tenth:
            self._tenth = int(share * 10)
            print(f"  {text}", flush=True)

    def _text(self, state: dict[str, Any]) -> str:
        if "place" in state:
            return f"place {state['place']} in the queue"
        parts = [f"step {state['step']} of {state['total']}"] if state.get("total") else []
        if state.get("loss") is not None:
            parts.append(f"loss {state['loss']:.3f}")
        if state.get("seconds_left") is not None:
            parts.append(f"{state['seconds_left']:.0f} s left")
        elif state.get("phase"):
            parts.append(state["phase"].replace("_", " "))
        return ", ".join(parts) or f"{100 * state['fraction']:.0f}%"

    def end(self) -> None:
        if self._live:
            print()


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
