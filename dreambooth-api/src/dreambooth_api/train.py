"""`python -m dreambooth_api.train`: a folder of photos in, a model artifact out.

The flags are the fields of `TrainingOptions`. Interrupted (Ctrl-C) or killed, the same command goes on from
the last checkpoint.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from enlight_common.errors import EnlightError, InvalidField
from enlight_common.files import write_atomically
from enlight_common.ids import check_id
from enlight_common.storage import open_object_store
from pydantic import BaseModel, ValidationError
from tqdm import tqdm

from dreambooth_api.models.artifact import MANIFEST, describe_files
from dreambooth_api.models.bases import known_bases, resolve_base
from dreambooth_api.models.catalog import Catalog
from dreambooth_api.training.messages import Checkpointed, Finished, Message, Preparing, Progress, Validation
from dreambooth_api.training.options import PriorPreservation, TrainingOptions
from dreambooth_api.training.photos import read_folder
from dreambooth_api.training.publication import manifest_of, publish
from dreambooth_api.training.workspace import Job, Workspace, prepare_job

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser()
    given = parser.parse_args(arguments)
    try:
        return _run(given)
    except ValidationError as error:
        for problem in error.errors():
            flag = "--" + "-".join(str(part) for part in problem["loc"]).replace("_", "-")
            print(f"{flag}: {problem['msg']}", file=sys.stderr)
    except EnlightError as error:
        print(error.detail, file=sys.stderr)
    return 2


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dreambooth_api.train", description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder with the photos of the subject")
    parser.add_argument("--prompt", dest="instance_prompt", required=True, help="same as --instance-prompt")
    parser.add_argument("--name", required=True, help="the model's id")
    parser.add_argument("--tenant", default="default", help="whose model it is (default: %(default)s)")
    parser.add_argument(
        "--captions", type=Path, help="text file with a caption for each photo, in order of names"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N (default: %(default)s)")
    parser.add_argument(
        "--work", type=Path, default=Path("data"), help="where unfinished runs and class pictures lie"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--store", default="data/store", help="URL or folder of the model store (default: %(default)s)"
    )
    where.add_argument("--output", type=Path, help="a new folder for the artifact, instead of a store")
    options = parser.add_argument_group("training options", f"Base models: {', '.join(known_bases())}.")
    _add_fields(options, TrainingOptions, skip={"instance_prompt", "captions", "prior_preservation"})
    prior = parser.add_argument_group("prior preservation", PriorPreservation.__doc__)
    _add_fields(prior, PriorPreservation, skip=set())
    return parser


def _add_fields(group: Any, model: type[BaseModel], skip: set[str]) -> None:
    """A flag for each field; pydantic checks the values afterwards, with the bounds that the model has."""
    for name, field in model.model_fields.items():
        if name in skip:
            continue
        unit = (field.json_schema_extra or {}).get("unit", "")  # type: ignore[union-attr]
        note = f"{field.description}. Unit: {unit}. Default: {field.get_default()}".replace("%", "%%")
        flags: dict[str, Any] = {"default": argparse.SUPPRESS, "help": note}
        if field.annotation is bool:
            flags["action"] = argparse.BooleanOptionalAction
        elif choices := _choices(field.annotation):
            flags["choices"] = choices
        group.add_argument("--" + name.replace("_", "-"), **flags)


def _choices(annotation: Any) -> tuple[Any, ...]:
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()


def options_of(given: argparse.Namespace) -> TrainingOptions:
    """Raises pydantic's ValidationError."""
    values = {name: value for name, value in vars(given).items() if name in TrainingOptions.model_fields}
    prior = {name: value for name, value in vars(given).items() if name in PriorPreservation.model_fields}
    values.pop("captions", None)
    if given.captions is not None:
        lines = given.captions.read_text(encoding="utf-8").splitlines()
        values["captions"] = [line.strip() for line in lines if line.strip()]
    if prior:
        values["prior_preservation"] = prior
    return TrainingOptions.model_validate(values)


def _run(given: argparse.Namespace) -> int:
    check_id(given.name, "--name")
    check_id(given.tenant, "--tenant")
    options = options_of(given)
    base = resolve_base(options.base_model)
    options = options.resolved(base)
    paths, photos = read_folder(given.images)
    if options.captions is not None and len(options.captions) != len(paths):
        raise InvalidField("--captions", f"must have {len(paths)} lines, one for each photo")
    if given.output is not None and given.output.exists():
        raise InvalidField("--output", "must not exist yet")

    job, squares = prepare_job(
        given.tenant,
        given.name,
        options,
        photos,
        base_revision=base.revision,
        device=given.device,
        class_images=(given.work / "class-images").absolute(),
    )
    workspace = Workspace.claim(given.work.absolute() / "training", job.identity)
    try:
        workspace.write_job(job, squares)
        finished = _train(workspace, options.steps)
        if finished is None:
            print("Interrupted. The same command goes on from where this left off.", file=sys.stderr)
            return _INTERRUPTED
        kept = _keep(given, workspace, job, finished)
        workspace.remove()
    finally:
        workspace.release()
    print(kept)
    return 0


def _train(workspace: Workspace, steps: int) -> Finished | None:
    """Train with a progress bar; None when Ctrl-C or SIGTERM asked to leave early."""
    # These load torch, which --help can do without.
    import diffusers
    import transformers

    from dreambooth_api.training.loop import train

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()

    asked: list[int] = []

    def ask(number: int, frame: types.FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = [(number, signal.signal(number, ask)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with tqdm(total=steps, unit="step", dynamic_ncols=True) as bar:
            outcome = train(workspace, lambda message: _show(bar, message), lambda: bool(asked))
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    return outcome if isinstance(outcome, Finished) else None


def _show(bar: Any, message: Message) -> None:
    match message:
        case Preparing(phase, done, total):
            bar.set_description(f"{phase} {done}/{total}" if total else phase)
        case Progress():
            if bar.n == 0 and message.step > 1:
                bar.initial = message.step - 1  # resumed: those steps took no time here
            bar.set_description("training", refresh=False)
            bar.set_postfix(loss=f"{message.loss:.4f}", lr=f"{message.learning_rate:.1e}", refresh=False)
            bar.update(message.step - bar.n)
        case Checkpointed(step):
            bar.write(f"checkpoint at step {step}")
        case Validation(step, path):
            bar.write(f"picture at step {step}: {path}")
        case _:
            pass


def _keep(given: argparse.Namespace, workspace: Workspace, job: Job, finished: Finished) -> str:
    """What to tell of it: the model's id and version, or the folder asked for."""
    if given.output is None:
        catalog = Catalog(open_object_store(given.store, field="--store"))
        return f"{job.model_id}@{publish(catalog, workspace, job, finished)}"
    output: Path = given.output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as scratch:
        staged = Path(scratch) / "artifact"
        shutil.copytree(workspace.result, staged)
        manifest = manifest_of(job, finished).model_copy(update={"files": describe_files(staged)})
        write_atomically(staged / MANIFEST, manifest.to_bytes())
        os.rename(staged, output)
    return str(output)


if __name__ == "__main__":
    sys.exit(main())
