"""Every metric of the service has a word in the README."""

from __future__ import annotations

import re
from pathlib import Path

from flask.testing import FlaskClient

README = Path(__file__).resolve().parents[2] / "README.md"


def test_every_metric_has_a_word_in_the_readme(client: FlaskClient) -> None:
    client.get("/healthz")
    page = client.get("/metrics").get_data(as_text=True)
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, flags=re.MULTILINE))
    own = {
        name
        for name in kinds
        if not name.startswith(("process_", "python_")) and not name.endswith("_created")
    }
    assert {"pictures_total", "drawings_waiting", "request_seconds"} <= own
    told = set(re.findall(r"`([a-z_]+)`", README.read_text(encoding="utf-8")))
    assert own - told == set()
