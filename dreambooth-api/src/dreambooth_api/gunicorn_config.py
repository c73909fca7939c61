"""gunicorn's configuration file: ``gunicorn -c python:dreambooth_api.gunicorn_config``."""

from __future__ import annotations

from enlight_common.web import gunicorn_settings_of

from dreambooth_api.settings import ServiceSettings

_settings = ServiceSettings.from_environment()

globals().update(gunicorn_settings_of(_settings, f"dreambooth-api-{_settings.instance_name}"))
