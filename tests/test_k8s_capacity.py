"""docs/capacity.md: its table is what its formulas give, and its bounds are those of k8s/."""

from __future__ import annotations

import re

import pytest
from k8s_manifests import ROOT, Manifest, of_kind

PAGE = (ROOT / "docs/capacity.md").read_text()


def test_the_table_is_what_the_formulas_give() -> None:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(source, names)
    columns = [names["needs"](users) for users in (10, 1000, 100_000)]  # type: ignore[operator]
    for name in columns[0]:
        row = " | ".join(f"{column[name]:,}" for column in columns)
        assert f"| {name} | {row} |\n" in PAGE


@pytest.mark.parametrize(
    ("kind", "name", "field", "said"),
    [
        (
            "ScaledJob",
            "dreambooth-training",
            "maxReplicaCount",
            r"`maxReplicaCount` (\d+) of `components/keda/training",
        ),
        (
            "ScaledObject",
            "dreambooth-api",
            "maxReplicaCount",
            r"`maxReplicaCount` (\d+) of `components/keda/drawing",
        ),
        ("HorizontalPodAutoscaler", "bgrem", "maxReplicas", r"bgrem on CPUs \| `maxReplicas` (\d+)"),
        ("HorizontalPodAutoscaler", "realesrgan", "maxReplicas", r"and `maxReplicas` (\d+)"),
        ("HorizontalPodAutoscaler", "main-api", "maxReplicas", r"`base/main-api/hpa.yaml` is (\d+)"),
    ],
)
def test_the_bounds_that_it_names_are_those_of_the_manifests(
    kind: str, name: str, field: str, said: str
) -> None:
    found: list[Manifest] = [one for one in of_kind("overlays/gke", kind) if one["metadata"]["name"] == name]
    assert re.findall(said, PAGE) == [str(found[0]["spec"][field])]
