"""Who may call a view: the one place where keys are read from requests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from enlight_common.errors import Unauthorized
from enlight_common.web import secured
from flask import Response, after_this_request, g, request

from main_api.callers import Caller
from main_api.errors import OutOfScope, RateLimited
from main_api.limits import WINDOW_S, Allowance
from main_api.records.keys import Scope
from main_api.routes.context import context

View = TypeVar("View", bound=Callable[..., Any])

SECURITY_SCHEMES: dict[str, dict[str, Any]] = {
    "key": {"type": "http", "scheme": "bearer", "description": "A key of `python -m main_api.keys create`"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    "nodeKey": {"type": "http", "scheme": "bearer", "description": "A GPU machine's key"},
}


def requires(*scopes: Scope) -> Callable[[View], View]:
    """Let only callers with one of `scopes` (or admin) reach the view; `caller()` says who it is then."""

    def guard(view: View) -> View:
        @functools.wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            authorize(*scopes)
            return view(*args, **kwargs)

        return cast(View, secured(guarded, "key", "apiKey"))

    return guard


def requires_node(view: View) -> View:
    """Let only GPU machines reach the view."""

    @functools.wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        authorize_node()
        return view(*args, **kwargs)

    return cast(View, secured(guarded, "nodeKey"))


def authorize(*scopes: Scope, legacy: bool = False) -> Caller:
    """The caller of the current request, counted against its tenant's rate limit.

    With `legacy` a request without any key is LEGACY_TENANT's, where that is set. Raises Unauthorized,
    OutOfScope, RateLimited.
    """
    service = context().service
    key = sent_key()
    if key is None and legacy and service.settings.legacy_tenant is not None:
        found = service.access.keyless(service.settings.legacy_tenant)
    elif key is None:
        raise Unauthorized("a key is required, as `Authorization: Bearer <key>`")
    else:
        found = service.access.caller(key)
    _count(service.access.take(found))
    if scopes and not any(found.may(scope) for scope in scopes):
        raise OutOfScope(f"the key needs the scope {' or '.join(scopes)}")
    g.caller = found
    return found


def authorize_node() -> None:
    """Raise Unauthorized unless the current request comes with a node's key."""
    key = sent_key()
    if key is None:
        raise Unauthorized("a node key is required, as `Authorization: Bearer <key>`")
    g.node_key_id = context().service.access.node(key)


def caller() -> Caller:
    """Whose the current request is; `authorize` came before."""
    return cast(Caller, g.caller)


def sent_key() -> str | None:
    """The key in `Authorization: Bearer` (or `Token`, as Replicate's clients used to say) or `X-Api-Key`."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() in ("bearer", "token") and value.strip():
        return value.strip()
    return request.headers.get("X-Api-Key") or None


def _count(allowance: Allowance) -> None:
    policy = f'"requests";q={allowance.limit};w={int(WINDOW_S)}'
    left = f'"requests";r={allowance.remaining};t={allowance.reset_s}'

    @after_this_request
    def tell(response: Response) -> Response:
        # draft-ietf-httpapi-ratelimit-headers
        response.headers["RateLimit-Policy"] = policy
        response.headers["RateLimit"] = left
        return response

    if not allowance.allowed:
        raise RateLimited(
            f"this tenant may send {allowance.limit} requests a minute", retry_after=allowance.retry_after_s
        )
