"""``python -m dreambooth_api``: the service in the foreground, set up by environment variables."""

from __future__ import annotations

import os
import sys

from enlight_common.settings import SettingsError

from dreambooth_api import openmp
from dreambooth_api.settings import ServiceSettings

_BAD_SETTINGS = 2


def main() -> None:
    """Check the settings and become gunicorn, so that signals reach it."""
    try:
        settings = ServiceSettings.from_environment()
    except SettingsError as error:
        sys.exit(_complain(str(error)))
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(_complain(f"DATA_DIR cannot be made: {error.strerror}"))
    for name, value in openmp.WAITING.items():
        os.environ.setdefault(name, value)
    command = [sys.executable, "-m", "gunicorn", "-c", "python:dreambooth_api.gunicorn_config"]
    os.execv(sys.executable, [*command, "dreambooth_api.app:create_app()"])


def _complain(message: str) -> int:
    print(f"dreambooth-api: {message}", file=sys.stderr)
    return _BAD_SETTINGS


if __name__ == "__main__":
    main()
