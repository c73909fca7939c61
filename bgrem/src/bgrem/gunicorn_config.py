"""gunicorn's configuration file: ``gunicorn -c python:bgrem.gunicorn_config``."""

from __future__ import annotations

from enlight_common.web import gunicorn_settings_of

from bgrem.settings import ServiceSettings

_settings = ServiceSettings.from_environment()

globals().update(gunicorn_settings_of(_settings, "bgrem"))
