"""gunicorn's configuration file: ``gunicorn -c python:upsampler.gunicorn_config``."""

from __future__ import annotations

from enlight_common.web import gunicorn_settings_of

from upsampler.settings import UpsamplerSettings

_settings = UpsamplerSettings.from_environment()

globals().update(gunicorn_settings_of(_settings, "upsampler"))
