"""`/healthz`: the process answers. `/readyz`: it can do its work."""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, Response, jsonify

from enlight_common.readiness import Readiness

Ready = Callable[[], bool | str | Readiness]


def install(app: Flask, ready: Ready) -> None:
    """`ready` says True, or False or the reason why not ("loading the model"), or a Readiness."""

    def healthz() -> Response:
        return jsonify(status="ok")

    def readyz() -> tuple[Response, int]:
        state = ready()
        if isinstance(state, Readiness):
            words: dict[str, object] = {"status": "ready" if state.ready else "not ready"}
            if not state.ready:
                words["message"] = state.message or "starting"
            return jsonify(**words, missing=list(state.missing)), 200 if state.ready else 503
        if state is True:
            return jsonify(status="ready"), 200
        return jsonify(status="not ready", message=state or "starting"), 503

    app.add_url_rule("/healthz", "healthz", healthz)
    app.add_url_rule("/readyz", "readyz", readyz)
