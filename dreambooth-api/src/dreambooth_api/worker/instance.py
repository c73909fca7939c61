"""The dreambooth-api beside the worker, as the worker sees it: over HTTP, for one job's tenant at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from enlight_common.errors import PayloadTooLarge
from enlight_common.schemas.claims import TENANT_HEADER, Claim
from pydantic import ValidationError

from dreambooth_api.training.run_state import RunState
from dreambooth_api.worker.http import Answer, Exchange, Unreachable

_ANSWER_S = 15.0
_START_S = 180.0  # photos are decoded, after another's
_STOP_S = 240.0  # a checkpoint of 10 GB is written and uploaded
_SETTLE_S = 60.0  # its checkpoints are removed from the store
_MAX_PICTURES_BYTES = 400_000_000  # 16 pictures of 2048 pixels a side as PNG, in base64


class NotDone(Exception):
    """The instance answered with something else than was asked for."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status}: {answer.problem[1]}")
        self.answer = answer


class Instance:
    """All methods may raise Unreachable and NotDone."""

    def __init__(self, url: str, generation_s: float) -> None:
        self.url, self._generation_s = url, generation_s

    def is_ready(self) -> bool:
        """Whether it takes drawings. Raises nothing."""
        with contextlib.suppress(Unreachable, PayloadTooLarge):
            return Exchange(self.url, silence_s=_ANSWER_S).run("GET", "/readyz", {}).status == 200
        return False

    def base_model(self) -> str:
        """The base model that it draws with. Raises PayloadTooLarge, too."""
        answer = _good(Exchange(self.url, silence_s=_ANSWER_S).run("GET", "/base-model", {}))
        try:
            return str(answer.json()["name"])
        except (ValueError, KeyError, TypeError) as error:
            raise NotDone(answer) from error

    def start_training(self, claim: Claim, body: Mapping[str, Any], lease_s: float) -> RunState:
        """Start the run, or join the one that an equal request started."""
        headers = {**_headers(claim), "Prefer": "respond-async", "X-Enlight-Lease": f"{lease_s:g}"}
        headers["X-Enlight-Job"] = claim.job_id
        return _run(Exchange(self.url, silence_s=_START_S).run("POST", "/train", headers, body))

    def run(self, claim: Claim, run_id: str) -> RunState:
        return _run(Exchange(self.url, silence_s=_ANSWER_S).run("GET", f"/train/{run_id}", _headers(claim)))

    def renew_lease(self, claim: Claim, run_id: str, lease_s: float) -> RunState:
        """Raises NotDone (409) when it is too late."""
        exchange = Exchange(self.url, silence_s=_ANSWER_S)
        body = {"seconds": lease_s}
        return _run(exchange.run("POST", f"/train/{run_id}/lease", _headers(claim), body))

    def stop_training(self, claim: Claim, run_id: str, *, keep: bool) -> RunState:
        """The run's last state. With `keep` its checkpoints stay where any machine finds them."""
        path = f"/train/{run_id}?keep={str(keep).lower()}"
        return _run(Exchange(self.url, silence_s=_STOP_S).run("DELETE", path, _headers(claim)))

    def settle_training(self, claim: Claim, run_id: str, *, undo: bool) -> RunState:
        """Tell of a run that has succeeded that its model is somebody's, or with `undo` that it is nobody's:
        it is deleted then, unless the same job has been answered with it since.
        """
        exchange, body = Exchange(self.url, silence_s=_SETTLE_S), {"undo": undo}
        return _run(exchange.run("POST", f"/train/{run_id}/settlement", _headers(claim), body))

    def drawing(self) -> Exchange:
        """To `draw` with; it can be broken off, and the instance then stops drawing."""
        return Exchange(self.url, silence_s=self._generation_s, max_bytes=_MAX_PICTURES_BYTES)

    def draw(self, drawing: Exchange, claim: Claim, body: Mapping[str, Any]) -> Answer:
        return _good(drawing.run("POST", "/inference", _headers(claim), body))


def _headers(claim: Claim) -> dict[str, str]:
    headers = {TENANT_HEADER: claim.tenant}
    if claim.request_id is not None:
        headers["X-Request-Id"] = claim.request_id
    if claim.traceparent is not None:
        headers["traceparent"] = claim.traceparent
    return headers


def _good(answer: Answer) -> Answer:
    if not 200 <= answer.status < 300:
        raise NotDone(answer)
    return answer


def _run(answer: Answer) -> RunState:
    try:
        return RunState.model_validate_json(_good(answer).body)
    except ValidationError as error:
        raise NotDone(answer) from error
