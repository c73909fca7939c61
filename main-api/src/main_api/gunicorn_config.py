"""gunicorn's configuration file: ``gunicorn -c python:main_api.gunicorn_config``."""

from __future__ import annotations

from enlight_common.web import gunicorn_settings

from main_api.settings import MainApiSettings

_settings = MainApiSettings.from_environment()

#: gunicorn kills its worker this much later than the worker itself gives up: connections kept alive
#: get another 2 s, and what the end of the grace time stopped gets its answer.
_MARGIN_S = 8

globals().update(
    gunicorn_settings(
        host=_settings.host,
        port=_settings.port,
        threads=_settings.threads,
        grace_s=_settings.grace_s + _MARGIN_S,
        name="main-api",
        log_level=_settings.log_level,
    )
)
