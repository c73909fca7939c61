"""What the objects under k8s/ say of each other."""

from __future__ import annotations

import pytest
from k8s_manifests import (
    APPLIED,
    SERVICES,
    Manifest,
    Workload,
    config_map,
    each,
    environment,
    name_of,
    of_kind,
    render,
    selects,
    workload,
    workloads,
)


@each(SERVICES)
def test_every_deployment_may_lose_one_pod_at_a_time(folder: str) -> None:
    budgets = of_kind(folder, "PodDisruptionBudget")
    for one in workloads(folder):
        matching = [b for b in budgets if selects(b["spec"]["selector"], one.labels)]
        assert len(matching) == (0 if one.kind == "ScaledJob" else 1), one.name
        for budget in matching:
            assert budget["spec"]["maxUnavailable"] == 1
    for budget in budgets:
        assert any(selects(budget["spec"]["selector"], one.labels) for one in workloads(folder)), name_of(
            budget
        )


@each(SERVICES)
def test_selectors_select_their_own_pods_and_no_others(folder: str) -> None:
    for manifest in of_kind(folder, "Deployment", "StatefulSet"):
        selector = manifest["spec"]["selector"]
        chosen = [one.name for one in workloads(folder) if selects(selector, one.labels)]
        assert chosen == [manifest["metadata"]["name"]]
        for spread in manifest["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            assert spread["labelSelector"] == selector
    for manifest in of_kind(folder, "Deployment"):
        assert manifest["spec"]["template"]["spec"]["topologySpreadConstraints"]


@each(APPLIED)
def test_services_lead_to_ports_that_their_pods_have(folder: str) -> None:
    for service in of_kind(folder, "Service"):
        labels = {"matchLabels": service["spec"]["selector"]}
        (one,) = [one for one in workloads(folder) if selects(labels, one.labels)]
        ports = {port["name"]: port["containerPort"] for c in one.lasting for port in c.get("ports", [])}
        for port in service["spec"]["ports"]:
            target = port["targetPort"]
            assert port["port"] == ports.get(target, target), name_of(service)
            assert port["port"] in ports.values()


@each(SERVICES)
def test_volumes_are_there_and_every_config_map_is_made_and_used(folder: str) -> None:
    used = set()
    for one in workloads(folder):
        claims = [t["metadata"]["name"] for t in claim_templates(folder, one)]
        volumes = {volume["name"] for volume in one.pod["volumes"]} | set(claims)
        mounted = {mount["name"] for c in one.containers for mount in c.get("volumeMounts", [])}
        assert mounted == volumes, one.name
        for volume in one.pod["volumes"]:
            if "configMap" in volume:
                used.add(volume["configMap"]["name"])
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert claim in {c["metadata"]["name"] for c in of_kind(folder, "PersistentVolumeClaim")}
        used |= {source["configMapRef"]["name"] for c in one.containers for source in c.get("envFrom", [])}
    for name in used:
        assert config_map(folder, name)
    made = {one["metadata"]["name"] for one in of_kind(folder, "ConfigMap")}
    assert made - used <= {"enlight-dashboard"}


def claim_templates(folder: str, one: Workload) -> list[Manifest]:
    found = [m for m in of_kind(folder, "StatefulSet") if m["metadata"]["name"] == one.name]
    return [template for manifest in found for template in manifest["spec"]["volumeClaimTemplates"]]


@each(SERVICES)
def test_what_a_scaler_counts_has_no_number_of_replicas_of_its_own(folder: str) -> None:
    scaled = {
        one["spec"]["scaleTargetRef"]["name"]
        for one in of_kind(folder, "HorizontalPodAutoscaler", "ScaledObject")
    }
    for manifest in of_kind(folder, "Deployment"):
        is_scaled = manifest["metadata"]["name"] in scaled
        assert ("replicas" in manifest["spec"]) != is_scaled, manifest["metadata"]["name"]


@pytest.mark.parametrize("folder", ["overlays/gke", "overlays/eks"])
def test_in_a_cloud_every_pod_that_draws_or_trains_has_a_gpu_for_itself(folder: str) -> None:
    for name in ("dreambooth-api", "dreambooth-training"):
        one = workload(folder, name)
        instance = one.container("instance")
        assert instance["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert environment(folder, instance)["DEVICE"] == "cuda"
        assert "nvidia.com/gpu" not in one.container("worker")["resources"]["limits"]
        assert one.pod["tolerations"]
        assert one.pod["nodeSelector"]
        (cache,) = [volume for volume in one.pod["volumes"] if volume["name"] == "cache"]
        assert cache["persistentVolumeClaim"] == {"claimName": "node-cache"}


@pytest.mark.parametrize("folder", ["overlays/gke", "overlays/eks"])
def test_trainings_run_in_pods_of_their_own_that_nothing_scales_in(folder: str) -> None:
    (job,) = of_kind(folder, "ScaledJob")
    assert job["spec"]["rollout"]["strategy"] == "gradual"
    assert "activeDeadlineSeconds" not in job["spec"]["jobTargetRef"]
    kinds = {
        name: environment(folder, workload(folder, name).container("worker"))["KINDS"]
        for name in ("dreambooth-api", "dreambooth-training")
    }
    assert kinds == {"dreambooth-api": "generation", "dreambooth-training": "training"}
    (trigger,) = job["spec"]["triggers"]
    namespace = job["metadata"]["namespace"]
    assert trigger["metadata"]["url"] == f"http://main-api.{namespace}:8040/metrics"


def test_one_gpus_pod_is_the_deployments_and_the_scaled_jobs_alike() -> None:
    """The two templates are written twice, since kustomize cannot take one out of the other."""
    drawing, training = (workload("overlays/gke", f"dreambooth-{name}") for name in ("api", "training"))
    for name, different in (("instance", {"lifecycle"}), ("worker", {"command", "envFrom", "volumeMounts"})):
        ours, theirs = drawing.container(name), training.container(name)
        assert {key: ours[key] for key in ours.keys() - different} == {
            key: theirs[key] for key in theirs.keys() - different
        }


def test_background_removal_alone_is_complete() -> None:
    kinds = sorted(one["kind"] for one in render("base/bgrem"))
    assert kinds == ["ConfigMap", "Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Service"]
    (one,) = workloads("base/bgrem")
    assert not any("valueFrom" in variable for c in one.containers for variable in c.get("env", []))
