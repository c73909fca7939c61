"""From a request to a job's record, which is there for good before the request is answered."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from enlight_common.errors import EnlightError, InvalidField, NotFound, Unavailable
from enlight_common.images import ImageBounds

from main_api.base_models import BaseModels
from main_api.callers import Caller
from main_api.clock import now_ms
from main_api.errors import KeyReused, QuotaReached
from main_api.ids import new_id, step_id
from main_api.jobs.hooks import Hooks
from main_api.jobs.interactive import Begun, Interactive
from main_api.jobs.job import Job
from main_api.jobs.pictures import Picture, Pictures
from main_api.jobs.quotas import QuotaBook
from main_api.jobs.states import Kind
from main_api.model_catalog import ModelCatalog
from main_api.records.audit import Audit
from main_api.records.database import DuplicateId
from main_api.records.jobs import Jobs
from main_api.records.photo_sets import PhotoSets
from main_api.records.reservations import Reservations
from main_api.schemas.generations import GenerationBody
from main_api.schemas.images import BackgroundRemovalBody, FollowingStep, RemovalStep, UpscaleBody
from main_api.schemas.strict import JobRequest
from main_api.schemas.trainings import TrainingBody
from main_api.storage import input_key

#: What dreambooth-api takes as a picture to start from.
_SOURCE_BOUNDS = ImageBounds(max_pixels=16_000_000)
_MAX_KEY = 255


@dataclass(frozen=True)
class Asked:
    """What comes with a request beside its body."""

    caller: Caller
    idempotency_key: str | None = None
    request_id: str | None = None
    traceparent: str | None = None
    #: Which façade it came through, and what that one has to remember.
    origin: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        key = self.idempotency_key
        if key is not None and not (0 < len(key) <= _MAX_KEY and key.isascii() and key.isprintable()):
            raise InvalidField("Idempotency-Key", f"must be 1 to {_MAX_KEY} printable ASCII characters")


@dataclass(frozen=True)
class Submitted:
    """The job, and whether this request made it: the same Idempotency-Key finds it again."""

    job: Job
    new: bool
    #: Where it is being drawn at once: the job at the end, or None if it was given back.
    drawing: Future[Job | None] | None = None


@dataclass(frozen=True)
class _Draft:
    """A job without its id. `files` of the job are made of `pictures` by the field that each is for."""

    kind: Kind
    input: dict[str, Any]
    task: dict[str, Any]
    pictures: Sequence[tuple[str, Picture]] = ()
    files: dict[str, Any] = field(default_factory=dict)
    base_model: str | None = None
    models: Sequence[str] = ()
    steps: Sequence[dict[str, Any]] = ()


class Submission:
    """Makes jobs. Raises the errors of its parts, among them InvalidField, QuotaReached, KeyReused,
    UnknownModel and Unavailable; a job that was returned is stored.
    """

    def __init__(
        self,
        *,
        jobs: Jobs,
        reservations: Reservations,
        photo_sets: PhotoSets,
        catalog: ModelCatalog,
        base_models: BaseModels,
        pictures: Pictures,
        quotas: QuotaBook,
        audit: Audit,
        hooks: Hooks,
        check_webhook: Callable[[str], None],
        interactive: Interactive | None = None,
    ) -> None:
        """`check_webhook` raises InvalidField for a URL that no webhook may go to.

        With `interactive`, somebody waits for the jobs: generations are begun at once where there is room.
        """
        self._interactive = interactive
        self._check_webhook = check_webhook
        self._jobs = jobs
        self._reservations = reservations
        self._photo_sets = photo_sets
        self._catalog = catalog
        self._base_models = base_models
        self._pictures = pictures
        self._quotas = quotas
        self._audit = audit
        self._hooks = hooks

    def training(self, asked: Asked, body: TrainingBody) -> Submitted:
        """Learn a subject."""

        def draft() -> _Draft:
            body.check_together()
            base = self._base_models.named(body.base_model, "base_model")
            task = {**body.task(), "MODEL_NAME": base}
            tenant = asked.caller.tenant
            shown = {**body.work(), "base_model": base}
            files: dict[str, Any] = {}
            pictures: list[tuple[str, Picture]] = []
            if body.photo_set is not None:
                files["photos"] = self._photos_of(tenant, body)
            else:
                sources = [(f"photos[{index}]", one) for index, one in enumerate(body.photos or [])]
                found = self._pictures.check(tenant, sources)
                pictures = [("photos", one) for one in found]
                shown["photos"] = [one.shown for one in found]
            return _Draft("training", shown, task, pictures, files, base, [body.model_id])

        return self._submit(asked, "training", body, draft)

    def _photos_of(self, tenant: str, body: TrainingBody) -> list[str]:
        found = self._photo_sets.get(tenant, body.photo_set or "")
        if found is None:
            raise InvalidField("photo_set", "names no photo set")
        keys = [one["key"] for one in found["photos"]]
        if body.captions is not None and len(body.captions) != len(keys):
            raise InvalidField("captions", "must have one caption for each of the set's photos")
        return keys

    def generation(self, asked: Asked, body: GenerationBody) -> Submitted:
        """Draw pictures, and do what is to follow."""

        def draft() -> _Draft:
            body.check_together()
            tenant = asked.caller.tenant
            base = self._catalog.base_of(tenant, body.named_models)
            shown = body.work()
            sources = [
                (name, source) for name in ("image", "mask") if (source := getattr(body, name)) is not None
            ]
            pictures = self._pictures.check(tenant, sources, _SOURCE_BOUNDS)
            shown |= {one.field: one.shown for one in pictures}
            return _Draft(
                "generation",
                shown,
                body.task(),
                [(one.field, one) for one in pictures],
                base_model=base or self._base_models.default,
                # Also what a picture that it begins with was made by: it goes when one of them is deleted.
                models=sorted(
                    {name.partition("@")[0] for name in body.named_models}
                    | {name for one in pictures for name in one.models}
                ),
            )

        return self._submit(asked, "generation", body, draft, body.then)

    def background_removal(self, asked: Asked, body: BackgroundRemovalBody) -> Submitted:
        """Cut the subject out of pictures."""

        def draft() -> _Draft:
            return self._of_images(asked, "background_removal", body, body.removal_task())

        return self._submit(asked, "background_removal", body, draft, body.then)

    def upscale(self, asked: Asked, body: UpscaleBody) -> Submitted:
        """Enlarge pictures."""

        def draft() -> _Draft:
            body.check_engine()
            return self._of_images(asked, "upscale", body, body.upscale_task())

        return self._submit(asked, "upscale", body, draft, body.then)

    def _of_images(
        self, asked: Asked, kind: Kind, body: BackgroundRemovalBody | UpscaleBody, task: dict[str, Any]
    ) -> _Draft:
        pictures = self._pictures.check(asked.caller.tenant, body.sources())
        shown = body.work()
        shown.pop("image", None)
        shown["images"] = [one.shown for one in pictures]
        models = sorted({name for one in pictures for name in one.models})
        return _Draft(kind, shown, task, [("images", one) for one in pictures], models=models)

    # -- the record

    def _submit(
        self,
        asked: Asked,
        kind: Kind,
        body: JobRequest,
        draft: Callable[[], _Draft],
        then: Sequence[FollowingStep] = (),
    ) -> Submitted:
        if body.webhook is not None:
            self._check_webhook(body.webhook)
        steps = _steps(then)

        def made(job_id: str, fingerprint: str | None) -> Submitted:
            if kind != "generation":
                # Also before pictures are read and stored, which takes long.
                self._quotas.check(asked.caller, kind)
            drafted = draft()
            if steps:
                drafted = _chained(drafted, steps)
            return self._store(asked, body, job_id, fingerprint, drafted)

        if asked.idempotency_key is None:
            return made(new_id(), None)
        return self._made_once(
            asked.caller.tenant, asked.idempotency_key, _fingerprint(kind, body, asked.origin), made
        )

    def _made_once(
        self, tenant: str, key: str, fingerprint: str, made: Callable[[str, str], Submitted]
    ) -> Submitted:
        """The job of an Idempotency-Key, *made* if there is none yet."""
        found = self._reservations.reserve(tenant, key, fingerprint)
        if found.fingerprint != fingerprint and found.over and self._jobs.get(found.job_id) is None:
            # That request was refused: the key stands for nothing yet.
            found = self._reservations.take_over(tenant, key, found, fingerprint)
        if found.fingerprint != fingerprint:
            raise KeyReused("this Idempotency-Key came with another request in the last 24 hours")
        known = self._jobs.get(found.job_id)
        if known is not None:
            return Submitted(known, new=False)
        self._reservations.begin(tenant, key, found)
        try:
            return made(found.job_id, fingerprint)
        except EnlightError:
            with contextlib.suppress(Unavailable):
                self._reservations.refuse(tenant, key, found)
            raise

    def _store(
        self, asked: Asked, body: JobRequest, job_id: str, fingerprint: str | None, draft: _Draft
    ) -> Submitted:
        caller = asked.caller
        self._quotas.check_bytes(caller, sum(one.size for _, one in draft.pictures if one.data is not None))
        keyed = [
            (one, input_key(caller.tenant, job_id, f"{name}-{index}"))
            for index, (name, one) in enumerate(draft.pictures)
        ]
        # Before the record: whoever claims it finds its pictures.
        keys = self._pictures.store(caller.tenant, keyed, "input", job_id=job_id, models=draft.models)
        files = dict(draft.files)
        for (name, _), key in zip(draft.pictures, keys, strict=True):
            if name in ("photos", "images"):
                files.setdefault(name, []).append(key)
            else:
                files[name] = key
        job = Job(
            id=job_id,
            tenant=caller.tenant,
            kind=draft.kind,
            status="queued",
            input=draft.input,
            task=draft.task,
            files=files,
            base_model=draft.base_model,
            models=list(draft.models),
            steps=list(draft.steps),
            metadata=dict(body.metadata),
            webhook={"url": body.webhook, "events": sorted(set(body.webhook_events_filter))}
            if body.webhook is not None
            else None,
            created_at=now_ms(),
            key_id=caller.key_id,
            request_id=asked.request_id,
            traceparent=asked.traceparent,
            fingerprint=fingerprint,
            origin=asked.origin,
        )
        try:
            begun = self._begun(caller, job)
            if begun is None:
                with self._quotas.place(caller, draft.kind):
                    self._jobs.insert(job)
        except DuplicateId:
            # The same Idempotency-Key at the same moment.
            known = self._jobs.get(job_id)
            if known is None:
                raise NotFound("the job of this Idempotency-Key was deleted") from None
            return Submitted(known, new=False)
        except QuotaReached:
            if asked.idempotency_key is None:  # else the same pictures may be a twin's, who got the place
                self._pictures.discard(keyed)
            raise
        self._audit.record(
            "job.create",
            tenant=caller.tenant,
            actor=caller.actor,
            target=job.id,
            request_id=asked.request_id,
            kind=job.kind,
        )
        if begun is not None:
            self._hooks.created(begun.job)
            self._hooks.changed(begun.job)
            return Submitted(begun.job, new=True, drawing=begun.drawing)
        self._hooks.created(job)
        return Submitted(job, new=True)

    def _begun(self, caller: Caller, job: Job) -> Begun | None:
        if self._interactive is None:
            return None
        return self._interactive.begin(job, caller.quotas.max_processing)

    # -- the steps of a chain

    def step(self, chain: Job, index: int, keys: Sequence[str] = ()) -> Job:
        """The job of a chain's step, made if there is none yet; `keys` are the pictures of the step before.

        Called again, from however many places, it gives the same job. Quotas were looked at when the chain
        was submitted.
        """
        planned = chain.steps[index]
        job = Job(
            id=step_id(chain.id, index),
            tenant=chain.tenant,
            kind=planned["kind"],
            status="queued",
            input=planned["input"],
            task=planned["task"],
            files=chain.files if index == 0 else {"images": list(keys)},
            base_model=planned.get("base_model"),
            models=list(chain.models),
            created_at=now_ms(),
            parent=chain.id,
            step=index,
            key_id=chain.key_id,
            request_id=chain.request_id,
            traceparent=chain.traceparent,
        )
        try:
            self._jobs.insert(job)
        except DuplicateId:
            return self._jobs.get(job.id) or job
        self._hooks.created(job)
        return job


def _chained(first: _Draft, following: Sequence[dict[str, Any]]) -> _Draft:
    """The chain that begins with `first`, whose pictures it holds until that step's job is made."""
    begin = {"kind": first.kind, "input": first.input, "task": first.task, "base_model": first.base_model}
    shown = {**first.input, "then": [{"kind": one["kind"], **one["input"]} for one in following]}
    return replace(first, kind="chain", input=shown, task={}, base_model=None, steps=[begin, *following])


def _steps(then: Sequence[FollowingStep]) -> list[dict[str, Any]]:
    steps = []
    for index, one in enumerate(then):
        if isinstance(one, RemovalStep):
            task = one.removal_task()
        else:
            one.check_engine(f"then[{index}].")
            task = one.upscale_task()
        shown = one.model_dump(mode="json", exclude_none=True, exclude={"kind"})
        steps.append({"kind": one.kind, "input": shown, "task": task})
    return steps


def _fingerprint(kind: Kind, body: JobRequest, origin: Mapping[str, Any]) -> str:
    """The same for the same request to the same façade, however its JSON was written."""
    text = json.dumps([kind, body.model_dump(mode="json"), origin], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
