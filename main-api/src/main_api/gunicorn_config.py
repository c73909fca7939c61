"""gunicorn's configuration file: ``gunicorn -c python:main_api.gunicorn_config``."""

from __future__ import annotations

from enlight_common.web import gunicorn_settings_of

from main_api.settings import MainApiSettings

_settings = MainApiSettings.from_environment()

globals().update(gunicorn_settings_of(_settings, "main-api"))
