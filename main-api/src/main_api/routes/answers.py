"""Answers that no cache may keep: they hold a tenant's records and signed URLs."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify


def private_json(value: dict[str, Any]) -> Response:
    response = jsonify(value)
    response.headers["Cache-Control"] = "no-store"
    return response
