"""What a view needs beside its request: the service, and the places for requests that take long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from enlight_common.errors import Forbidden
from enlight_common.ids import check_id
from enlight_common.schemas.claims import TENANT_HEADER
from enlight_common.web import LongLived, watch_client
from flask import Flask, current_app, request

from dreambooth_api.routes.abandoned import AbandonedRuns
from dreambooth_api.service import Service

_EXTENSION = "dreambooth-api"
_DEFAULT_TENANT = "default"
#: Only one training runs at a time; reading the photos of many others at once would only fill the memory.
_UPLOADS = 4
#: Each reads the object store, for as long as that takes.
_LISTINGS = 4
#: One training runs at a time, so there is little to end.
_ENDINGS = 2


@dataclass
class Context:
    """The service and its bounded places, which are half of the threads together with its drawings'.

    Drawings and waits (event streams, synchronous trainings) each have their own quarter, so that
    neither keeps the other out.
    """

    service: Service
    waits: LongLived = field(init=False)
    #: Apart from the half: each is over in seconds or minutes, and a run must end however many follow it.
    listings: LongLived = field(init=False)
    endings: LongLived = field(init=False)
    uploads: LongLived = field(init=False)
    abandonable: AbandonedRuns = field(init=False)
    #: Held while a training's photos are decoded, which takes up to a gigabyte.
    decoding: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        quarter = self.service.settings.threads // 4
        self.uploads = LongLived(min(_UPLOADS, quarter // 2))
        self.waits = LongLived(quarter - self.uploads.limit)
        self.listings = LongLived(min(_LISTINGS, quarter // 2))
        self.endings = LongLived(min(_ENDINGS, quarter // 2))
        self.abandonable = AbandonedRuns(self._give_up)

    def _give_up(self, run_id: str) -> None:
        """Cancel a run that nobody waits for; it is checkpointed, so the same request resumes it."""
        if not self.service.draining:
            self.service.trainings.give_up(run_id)

    def attach(self, app: Flask) -> None:
        """Make this the context of *app*'s requests."""
        app.extensions[_EXTENSION] = self


def context_of(app: Flask) -> Context:
    """The context attached to *app*."""
    return cast(Context, app.extensions[_EXTENSION])


def context() -> Context:
    """The context of the current request's app."""
    return context_of(current_app)


def tenant() -> str:
    """Whose the request's models and trainings are.

    Raises:
        Forbidden: it names a tenant, and this instance does not take its callers' word for that.
        InvalidField: the name is no id.
    """
    named = request.headers.get(TENANT_HEADER, _DEFAULT_TENANT)
    if named != _DEFAULT_TENANT and not context().service.settings.trust_tenant_header:
        raise Forbidden(f"{TENANT_HEADER} is not taken here: TRUST_TENANT_HEADER is off")
    return check_id(named, TENANT_HEADER)


def watch_work() -> Callable[[], bool]:
    """Whether the request's work should stop: its client is gone, or the service's grace time is over."""
    gone, service = watch_client(), context().service
    return lambda: service.stopping or gone()
