"""What a worker says to main-api: `enlight_common.schemas.claims` over HTTP."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from enlight_common.errors import EnlightError
from enlight_common.schemas.claims import (
    LEASE_LOST,
    Claim,
    ClaimRequest,
    Completed,
    Completion,
    GpuKind,
    Lease,
    PictureGrant,
    PictureOffer,
    Release,
    Renewal,
)
from pydantic import BaseModel, ValidationError

from dreambooth_api.worker.http import Answer, Exchange, Unreachable

_log = logging.getLogger(__name__)

_ANSWER_S = 15.0  # for what is not a long poll
_LONG_POLL_MARGIN_S = 15.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0
#: A poll over TLS cannot be told to end (see `Exchange.wait_no_longer`): it is short instead.
_LONGEST_TLS_POLL_S = 5.0

Model = TypeVar("Model", bound=BaseModel)


class LeaseLost(Exception):
    """The job is another's, or has ended: nothing may be written for it any more."""


class Unavailable(Exception):
    """main-api does not answer, or not now; the same may be asked again after `retry_after` seconds."""

    def __init__(self, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Refused(Exception):
    """main-api will not do this, however often it is asked: a revoked key, or a report it does not take."""


class MainApi:
    """One attempt each, but for `patiently`."""

    def __init__(self, url: str, node_key: str, worker: str) -> None:
        self._url, self._worker = url, worker
        self._headers = {"Authorization": f"Bearer {node_key}"}

    def poll(self, kinds: Sequence[GpuKind], base_models: Sequence[str], wait_s: float) -> Poll:
        """A long poll for a job, which is made by its `run`."""
        if self._url.startswith("https:"):
            wait_s = min(wait_s, _LONGEST_TLS_POLL_S)
        question = ClaimRequest(
            worker=self._worker, kinds=list(kinds), base_models=list(base_models), wait_s=wait_s
        )
        return Poll(Exchange(self._url, silence_s=wait_s + _LONG_POLL_MARGIN_S), self._headers, question)

    def renew(self, job_id: str, renewal: Renewal) -> Lease:
        """Raises LeaseLost, Unavailable, Refused, as all of the following do."""
        return self._tell(job_id, "renewal", renewal, Lease)

    def offer(self, job_id: str, picture: PictureOffer) -> PictureGrant:
        return self._tell(job_id, "pictures", picture, PictureGrant)

    def complete(self, job_id: str, completion: Completion) -> Completed:
        return self._tell(job_id, "completion", completion, Completed)

    def release(self, job_id: str, release: Release) -> Completed:
        return self._tell(job_id, "release", release, Completed)

    def _tell(self, job_id: str, what: str, said: BaseModel, expected: type[Model]) -> Model:
        path = f"/internal/v1/jobs/{job_id}/{what}"
        exchange = Exchange(self._url, silence_s=_ANSWER_S)
        return _parse(_ask(exchange, path, self._headers, said), expected)


class Poll:
    """One claim, waited for."""

    def __init__(self, exchange: Exchange, headers: dict[str, str], question: ClaimRequest) -> None:
        self._exchange, self._headers, self._question = exchange, headers, question

    def run(self) -> Claim | None:
        """The job that came, if one came in time. Raises Unavailable, Refused."""
        try:
            answer = _ask(self._exchange, "/internal/v1/claims", self._headers, self._question)
        except LeaseLost as error:
            raise Refused(str(error)) from error
        return None if answer.status == 204 else _parse(answer, Claim)

    def wait_no_longer(self) -> None:
        """Have main-api answer now, or soon: a job that it has lent already still arrives."""
        self._exchange.wait_no_longer()


def patiently(attempt: Callable[[], Model], pause: Callable[[float], bool]) -> Model:
    """`attempt`'s result, tried again while main-api is away and `pause(seconds)` waits and says yes: only
    for what may be said twice. Raises LeaseLost, Refused, Unavailable.
    """
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return attempt()
        except Unavailable as error:
            wait_s = max(pause_s, error.retry_after or 0.0) * random.uniform(0.5, 1.0)
            _log.warning("main-api is away: %s", error)
            if not pause(wait_s):
                raise
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _ask(exchange: Exchange, path: str, headers: dict[str, str], said: BaseModel) -> Answer:
    try:
        answer = exchange.run("POST", path, headers, said.model_dump(mode="json"))
    except Unreachable as error:
        raise Unavailable(str(error)) from error
    except EnlightError as error:
        raise Refused(error.detail) from error
    if 200 <= answer.status < 300:
        return answer
    kind, message = answer.problem
    if answer.status == 409 and kind == LEASE_LOST:
        raise LeaseLost(message)
    if answer.status in (408, 429) or answer.status >= 500:
        raise Unavailable(f"{answer.status}: {message}", answer.retry_after)
    raise Refused(f"{answer.status}: {message}")


def _parse(answer: Answer, expected: type[Model]) -> Model:
    try:
        return expected.model_validate_json(answer.body)
    except ValidationError as error:
        raise Unavailable("the answer is not main-api's") from error
