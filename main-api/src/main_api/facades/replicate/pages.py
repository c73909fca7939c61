"""Lists in Replicate's shape."""

from __future__ import annotations

from typing import Any

from flask import Response

from main_api.facades.replicate.models import ReplicateModels
from main_api.facades.replicate.shapes import PREFIX
from main_api.routes.answers import private_json
from main_api.routes.authorization import caller
from main_api.routes.context import context


def models_of_caller() -> ReplicateModels:
    """The models that the current request's caller can draw with."""
    return ReplicateModels(context().service, caller().tenant)


def page_url(what: str, cursor: str | None) -> str | None:
    """The whole address, which the client asks as it is."""
    if cursor is None:
        return None
    base = context().service.settings.public_url.rstrip("/")
    return f"{base}{PREFIX}/{what}?cursor={cursor}"


def answer_page(results: list[dict[str, Any]], following: str | None) -> Response:
    """There is no way back: `previous` is always null."""
    return private_json({"previous": None, "next": following, "results": results})
