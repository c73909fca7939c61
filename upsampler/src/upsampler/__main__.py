"""``python -m upsampler``: the service in the foreground, set up by environment variables."""

from __future__ import annotations

import os
import sys

from enlight_common.settings import SettingsError
from enlight_common.web import become_gunicorn

from upsampler import openmp
from upsampler.settings import UpsamplerSettings

_BAD_SETTINGS = 2


def main() -> None:
    """Check the settings and become gunicorn, so that signals reach it."""
    try:
        UpsamplerSettings.from_environment()
    except SettingsError as error:
        print(f"upsampler: {error}", file=sys.stderr)
        sys.exit(_BAD_SETTINGS)
    for name, value in openmp.WAITING.items():
        os.environ.setdefault(name, value)
    become_gunicorn("upsampler.gunicorn_config", "upsampler.app:create_app()")


if __name__ == "__main__":
    main()
