"""main-api's side of the claims, as `enlight_common.schemas.claims` has it, on a real server in this process.

Jobs are in memory and a test may look at them and change them; photos and pictures lie in a folder store.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enlight_common.errors import Conflict, Unauthorized
from enlight_common.schemas.claims import (
    LEASE_LOST,
    Claim,
    ClaimRequest,
    Completed,
    Completion,
    Lease,
    PictureGrant,
    PictureOffer,
    Progress,
    Release,
    Renewal,
)
from enlight_common.storage import FolderStore, UrlSigner, put_bytes
from enlight_common.web import create_app, parse_body
from enlight_common.web.objects import objects_blueprint
from flask import Flask, Response, jsonify, request
from PIL import Image
from service_process import free_port
from werkzeug.serving import make_server

NODE_KEY = "node-key-of-the-tests"
_SECRET = b"the secret of the tests, 32 bytes or more"
_URL_EXPIRES_S = 3600


class LeaseLostError(Conflict):
    type = LEASE_LOST
    title = "The job is another's"


@dataclass
class Job:
    """A record, and all that was said about it."""

    job_id: str
    kind: str
    input: dict[str, Any]
    tenant: str = "acme"
    photos: list[str] = field(default_factory=list)
    images: dict[str, str] = field(default_factory=dict)
    status: str = "queued"
    fencing: int = 0
    attempts: int = 0
    lease_until: float = 0.0
    cancel: bool = False
    renewals: int = 0
    refused: int = 0
    progress: list[Progress] = field(default_factory=list)
    logs: str = ""
    releases: list[Release] = field(default_factory=list)
    completion: Completion | None = None


class ClaimsServer:
    """`silent` makes it answer 503 to everything, `completions` that status to every completion."""

    def __init__(self, folder: Path, lease_s: float = 3.0) -> None:
        self.lease_s, self.silent = lease_s, False
        self.completions: int | None = None
        self.jobs: dict[str, Job] = {}
        self._changed = threading.Condition()
        self.url = f"http://127.0.0.1:{free_port()}"
        signer = UrlSigner(_SECRET, f"{self.url}/objects")
        self.objects = FolderStore(folder, signer=signer)
        self.app = self._app(signer)

    def add(self, kind: str, body: dict[str, Any], **more: Any) -> Job:
        with self._changed:
            job = Job(f"job-{len(self.jobs)}", kind, body, **more)
            self.jobs[job.job_id] = job
            self._changed.notify_all()
        return job

    def keep_photo(self, name: str, image: Image.Image) -> str:
        """A signed URL for a photo that is in the store from now on."""
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        put_bytes(self.objects, f"photos/{name}.png", buffer.getvalue())
        return self.objects.signed_url(f"photos/{name}.png", "GET", _URL_EXPIRES_S)

    def give_to_another(self, job: Job) -> None:
        """As when its lease ended and somebody else claimed it."""
        with self._changed:
            job.fencing += 1
            job.lease_until = time.monotonic() + 3600

    def put_back(self, job: Job) -> None:
        with self._changed:
            job.status = "queued"
            self._changed.notify_all()

    @contextlib.contextmanager
    def serving(self) -> Iterator[ClaimsServer]:
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        port = int(self.url.rsplit(":", 1)[1])
        server = make_server("127.0.0.1", port, self.app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join(10)
            server.server_close()

    def _app(self, signer: UrlSigner) -> Flask:
        app = create_app(__name__, max_body_bytes=1_000_000, ready=lambda: True)
        app.register_blueprint(
            objects_blueprint(self.objects, signer, self._authorize), url_prefix="/objects"
        )
        jobs = "/internal/v1/jobs/<job_id>"
        app.add_url_rule("/internal/v1/claims", view_func=self._claim, methods=["POST"])
        for name in ("renewal", "pictures", "completion", "release"):
            app.add_url_rule(f"{jobs}/{name}", view_func=getattr(self, f"_{name}"), methods=["POST"])
        return app

    def _authorize(self) -> None:
        if request.headers.get("Authorization") != f"Bearer {NODE_KEY}":
            raise Unauthorized("a node key is required")

    def _claim(self) -> tuple[str, int] | Response:
        self._authorize()
        asked = parse_body(ClaimRequest)
        if self.silent:
            return Response(status=503)
        deadline = time.monotonic() + asked.wait_s
        with self._changed:
            while (job := self._free(asked)) is None:
                if time.monotonic() >= deadline:
                    return "", 204
                self._changed.wait(0.1)
            job.status, job.lease_until = "processing", time.monotonic() + self.lease_s
            job.fencing += 1
            job.attempts += 1
            claim = Claim(
                job_id=job.job_id,
                kind=job.kind,  # type: ignore[arg-type]
                tenant=job.tenant,
                input=job.input,
                attempt=job.attempts,
                fencing=job.fencing,
                lease_s=self.lease_s,
                request_id="request-of-the-tests",
                photos=job.photos,
                images=job.images,
            )
        return jsonify(claim.model_dump())

    def _free(self, asked: ClaimRequest) -> Job | None:
        assert "enlight/tiny-sd" in asked.base_models
        for job in self.jobs.values():
            if job.status == "processing" and time.monotonic() > job.lease_until:
                job.status = "queued"
            if job.status == "queued" and job.kind in asked.kinds:
                return job
        return None

    def _held(self, job_id: str, fencing: int) -> Job:
        self._authorize()
        job = self.jobs[job_id]
        if job.fencing != fencing or job.status != "processing":
            job.refused += 1
            raise LeaseLostError("the job is another's")
        return job

    def _renewal(self, job_id: str) -> Response:
        said = parse_body(Renewal)
        if self.silent:
            return Response(status=503)
        with self._changed:
            job = self._held(job_id, said.fencing)
            job.lease_until = time.monotonic() + self.lease_s
            job.renewals += 1
            job.logs += said.logs or ""
            if said.progress is not None:
                job.progress.append(said.progress)
        return jsonify(Lease(lease_s=self.lease_s, cancel=job.cancel).model_dump())

    def _pictures(self, job_id: str) -> Response:
        said = parse_body(PictureOffer)
        with self._changed:
            self._held(job_id, said.fencing)
        key = f"pictures/{job_id}/{said.fencing}/{said.index}.{said.format}"
        url = self.objects.signed_url(key, "PUT", _URL_EXPIRES_S)
        return jsonify(PictureGrant(put_url=url, key=key).model_dump())

    def _completion(self, job_id: str) -> Response:
        said = parse_body(Completion)
        if self.silent or self.completions is not None:
            return Response(status=self.completions or 503)
        with self._changed:
            if self.jobs[job_id].completion != said:
                job = self._held(job_id, said.fencing)
                job.status, job.completion = said.status, said
                job.logs += said.logs or ""
        return jsonify(Completed(job_id=job_id, status=said.status).model_dump())

    def _release(self, job_id: str) -> Response:
        said = parse_body(Release)
        with self._changed:
            job = self._held(job_id, said.fencing)
            # Held back until a test puts it back, so that it can look first.
            job.status = "released"
            job.attempts -= not said.counts
            job.releases.append(said)
        return jsonify(Completed(job_id=job_id, status="queued").model_dump())
