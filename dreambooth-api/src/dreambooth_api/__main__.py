"""``python -m dreambooth_api``: the service in the foreground, set up by environment variables."""

from __future__ import annotations

import os
import sys

from enlight_common import openmp
from enlight_common.settings import SettingsError
from enlight_common.web import become_gunicorn

from dreambooth_api.settings import ServiceSettings

_BAD_SETTINGS = 2


def main() -> None:
    """Check the settings and become gunicorn, so that signals reach it."""
    try:
        settings = ServiceSettings.from_environment()
    except SettingsError as error:
        sys.exit(_complain(str(error)))
    for name, folder in (("DATA_DIR", settings.data_dir), ("CACHE_DIR", settings.cache_folder)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            sys.exit(_complain(f"{name} cannot be made: {error.strerror}"))
    for name, value in openmp.WAITING.items():
        os.environ.setdefault(name, value)
    become_gunicorn("dreambooth_api.gunicorn_config", "dreambooth_api.app:create_app()")


def _complain(message: str) -> int:
    print(f"dreambooth-api: {message}", file=sys.stderr)
    return _BAD_SETTINGS


if __name__ == "__main__":
    main()
