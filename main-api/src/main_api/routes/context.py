"""What a view needs beside its request: the service, and the places for requests that take long."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

from enlight_common.errors import Overloaded
from enlight_common.web import LongLived
from flask import Flask, current_app, request

from main_api.service import Service

_EXTENSION = "main-api"
#: Requests with more than this much of a body are held in memory, so only a few come in at once.
_LARGE_BYTES = 1024 * 1024
_LARGE_AT_ONCE = 8


@dataclass
class Context:
    """The service and its bounded places, which are less than all of the threads together.

    Clients that wait for a job or follow it, and workers that wait for one, have a quarter each, so that
    neither keeps the other out; another quarter and more makes jobs. What is left answers all that is quick.
    """

    service: Service
    waits: LongLived = field(init=False)
    claims: LongLived = field(init=False)
    submissions: LongLived = field(init=False)
    large: LongLived = field(init=False)

    def __post_init__(self) -> None:
        quarter = self.service.settings.threads // 4
        self.waits = LongLived(quarter)
        self.claims = LongLived(quarter)
        self.submissions = LongLived(quarter + quarter // 2, retry_after=1.0)
        self.large = LongLived(min(_LARGE_AT_ONCE, quarter), retry_after=2.0)

    @contextlib.contextmanager
    def submitting(self) -> Iterator[None]:
        """A place for the current request to make something of its body. Raises Overloaded."""
        with contextlib.ExitStack() as places:
            places.enter_context(self.submissions.enter("job"))
            if (request.content_length or _LARGE_BYTES + 1) > _LARGE_BYTES:
                places.enter_context(self.large.enter("large request"))
            yield

    def shed(self) -> None:
        """Refuse the current request, before anything is spent on it, where its place would be missing."""
        if (
            request.method == "POST"
            and not request.path.startswith("/internal/")
            and self.submissions.taken >= self.submissions.limit
        ):
            raise Overloaded("too many requests are being taken in", retry_after=1.0)

    def attach(self, app: Flask) -> None:
        """Make this the context of *app*'s requests."""
        app.extensions[_EXTENSION] = self
        app.before_request(self.shed)


def context() -> Context:
    """The context of the current request's app."""
    return cast(Context, current_app.extensions[_EXTENSION])
