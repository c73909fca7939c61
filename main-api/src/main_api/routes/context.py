"""What a view needs beside its request: the service, and the places for requests that take long."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from enlight_common.errors import Overloaded
from enlight_common.web import BodyGate, LongLived, Slot
from flask import Flask, current_app, g, request

from main_api.service import Service

_EXTENSION = "main-api"
#: Requests with more than this much of a body are held in memory, so only a few come in at once.
_LARGE_BYTES = 1024 * 1024
_LARGE_AT_ONCE = 8
_SUBMITS = "main_api_submits"

View = TypeVar("View", bound=Callable[..., Any])


def submits(view: View) -> View:
    """Mark a view that takes a place of `Context.submissions`: it is not begun while there is none."""
    setattr(view, _SUBMITS, True)
    return view


class TenantPlaces(LongLived):
    """Places of which no tenant may have the last eighth, so that none shuts out the others."""

    def __init__(self, limit: int, *, retry_after: float = 5.0) -> None:
        super().__init__(limit, retry_after=retry_after, each=limit - max(1, limit // 8))

    def take(self, what: str, owner: str | None = None) -> Slot:
        """For the caller of the current request."""
        return super().take(what, owner or g.caller.tenant)


@dataclass
class Context:
    """The service and its bounded places, which are less than all of the threads together.

    Clients that wait for a job or follow it have a quarter, those that submit one more, workers that wait
    for one and objects on their way less, so that none keeps the others out. What is left answers all that
    is quick.
    """

    service: Service
    waits: LongLived = field(init=False)
    claims: LongLived = field(init=False)
    submissions: LongLived = field(init=False)
    large: LongLived = field(init=False)
    transfers: BodyGate = field(init=False)

    def __post_init__(self) -> None:
        threads = self.service.settings.threads
        quarter = threads // 4
        self.waits = TenantPlaces(quarter)
        self.claims = LongLived(3 * threads // 16)
        self.submissions = TenantPlaces(quarter + quarter // 2, retry_after=1.0)
        self.large = TenantPlaces(min(_LARGE_AT_ONCE, quarter), retry_after=2.0)
        self.transfers = BodyGate(reading=threads // 8, waiting=threads // 16)

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
        if self.submissions.taken >= self.submissions.limit and hasattr(
            current_app.view_functions.get(request.endpoint or ""), _SUBMITS
        ):
            raise Overloaded("too many requests are being taken in", retry_after=1.0)

    def attach(self, app: Flask) -> None:
        """Make this the context of *app*'s requests."""
        app.extensions[_EXTENSION] = self
        app.before_request(self.shed)


def context() -> Context:
    """The context of the current request's app."""
    return cast(Context, current_app.extensions[_EXTENSION])
