"""gunicorn's configuration file: ``gunicorn -c python:realesrgan_service.gunicorn_config``."""

from __future__ import annotations

from enlight_common.web import gunicorn_settings_of

from realesrgan_service.settings import ServiceSettings

_settings = ServiceSettings.from_environment()

globals().update(gunicorn_settings_of(_settings, "realesrgan"))
