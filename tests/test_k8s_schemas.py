"""Everything under k8s/ builds and is what Kubernetes and the operators take, unknown fields excluded."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from k8s_manifests import APPLIED, K8S, Manifest, name_of, of_kind, render
from referencing import Registry, Resource

#: The oldest with all that is used (a `sleep` before the end, sidecars), and the newest that has a schema.
VERSIONS = ("1.30.0", "1.37.0")
CUSTOM = ("keda.sh", "monitoring.coreos.com", "external-secrets.io")
SCHEMAS = K8S / "schemas"


_FOLDER = "kubernetes-json-schema/v{}-local-strict"


def distinct(*, custom: bool) -> list[Manifest]:
    """All objects under k8s/ once, operators' own kinds or Kubernetes'."""
    found = {json.dumps(one, sort_keys=True): one for folder in APPLIED for one in render(folder)}
    return [one for one in found.values() if (one["apiVersion"].split("/")[0] in CUSTOM) == custom]


@functools.cache
def validator(version: str, kind: str, api_version: str) -> Any:
    """Of a kind's strict schema. The package's own `validate` reads 3 MB of definitions for each object."""
    schemas = pytest.importorskip("kubernetes_validate.utils")
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = schemas.schema_contents(f"{_FOLDER.format(version)}/{kind.lower()}-{group}.json", version)
    return Draft202012Validator(schema, registry=_definitions(version) @ Registry())


@functools.cache
def _definitions(version: str) -> Any:
    schemas = pytest.importorskip("kubernetes_validate.utils")
    return Resource.from_contents(
        schemas.schema_contents(f"{_FOLDER.format(version)}/_definitions.json", version)
    )


def objections(manifest: Manifest, version: str) -> list[str]:
    found = validator(version, manifest["kind"], manifest["apiVersion"]).iter_errors(manifest)
    return [f"{name_of(manifest)} {error.json_path}: {error.message}" for error in found]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_built_is_valid_strictly(version: str) -> None:
    assert [line for one in distinct(custom=False) for line in objections(one, version)] == []


def test_an_object_with_an_unknown_field_is_refused() -> None:
    (service,) = of_kind("base/bgrem", "Service")
    wrong = {**service, "spec": {**service["spec"], "prots": []}}
    assert objections(wrong, VERSIONS[-1])


def test_the_pods_of_a_scaled_job_are_valid_as_those_of_a_job() -> None:
    scaled = [one for one in distinct(custom=True) if one["kind"] == "ScaledJob"]
    assert scaled
    for one in scaled:
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "one"}}
        assert objections({**job, "spec": one["spec"]["jobTargetRef"]}, VERSIONS[0]) == []


def complaints(manifests: list[Manifest], scratch: Path) -> list[str]:
    """What the custom resources' own schemas say against them."""
    if shutil.which("node") is None:
        pytest.skip("the custom resources' schemas are programs for node, which is not here")
    if not (SCHEMAS / "node_modules").is_dir():
        pytest.skip("the custom resources' schemas are not here: bash k8s/schemas/fetch.sh")
    file = scratch / "manifests.json"
    file.write_text(json.dumps(manifests))
    command = ["node", str(SCHEMAS / "check.mjs"), str(file)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert checked.returncode in (0, 3), checked.stderr
    return checked.stdout.splitlines()


def test_custom_resources_are_valid_strictly(tmp_path: Path) -> None:
    customs = distinct(custom=True)
    kinds = {one["kind"] for one in customs}
    assert {"ScaledJob", "ScaledObject", "ServiceMonitor", "PrometheusRule", "ExternalSecret"} <= kinds
    assert complaints(customs, tmp_path) == []


def test_custom_resources_with_a_wrong_or_an_unknown_field_are_refused(tmp_path: Path) -> None:
    scaled = of_kind("overlays/gke", "ScaledObject")[0]
    wrong = {**scaled, "spec": {**scaled["spec"], "minReplicaCount": "one"}}
    unknown = {**scaled, "spec": {**scaled["spec"], "minReplicas": 1}}
    found = complaints([wrong, unknown], tmp_path)
    assert len(found) == 2, found
    assert "/spec/minReplicaCount" in found[0]
    assert "/spec/minReplicas" in found[1]


@pytest.mark.parametrize("folder", APPLIED)
def test_nothing_is_there_twice(folder: str) -> None:
    names = [(name_of(one), one["metadata"].get("namespace")) for one in render(folder)]
    assert len(names) == len(set(names))
