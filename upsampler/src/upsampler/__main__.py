"""``python -m upsampler``: the service in the foreground, set up by environment variables."""

from __future__ import annotations

from enlight_common import openmp
from enlight_common.web import serve

from upsampler.settings import UpsamplerSettings


def main() -> None:
    """Check the settings and become gunicorn, so that signals reach it."""
    serve("upsampler", UpsamplerSettings.from_environment, environment=openmp.WAITING)


if __name__ == "__main__":
    main()
