"""What holds for every pod under k8s/: its rights, its bounds, its beginning and its end."""

from __future__ import annotations

import ast
import re

from k8s_manifests import (
    APPLIED,
    K8S,
    OVERLAYS,
    SERVICES,
    each,
    environment,
    of_kind,
    quantity,
    render,
    workloads,
)


@each(APPLIED)
def test_every_image_has_a_tag_that_says_which(folder: str) -> None:
    for one in workloads(folder):
        for container in one.containers:
            assert re.search(r":(?!latest$)[\w.-]+$", container["image"]), (one.name, container["image"])


@each(APPLIED)
def test_every_container_asks_for_what_it_needs_and_is_bounded(folder: str) -> None:
    for one in workloads(folder):
        for container in one.containers:
            where = (one.name, container["name"])
            needs, bounds = container["resources"]["requests"], container["resources"]["limits"]
            for resource in ("cpu", "memory", "ephemeral-storage"):
                assert 0 < quantity(needs[resource]) <= quantity(bounds[resource]), (*where, resource)


@each(SERVICES)
def test_every_pod_keeps_the_restricted_standard_and_a_root_that_cannot_be_written(folder: str) -> None:
    for one in workloads(folder):
        pod, security = one.pod, one.pod["securityContext"]
        assert security["runAsNonRoot"] is True, one.name
        assert security["runAsUser"] > 0, one.name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, one.name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), one.name
        allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
        for volume in pod["volumes"]:
            assert set(volume) - {"name"} <= allowed, (one.name, volume)
            if "emptyDir" in volume:
                assert "sizeLimit" in volume["emptyDir"], (one.name, volume)
        # main-api reads a cloud's identity from files that the cloud mounts; nobody asks Kubernetes anything.
        assert pod["automountServiceAccountToken"] is False, one.name
        # They would be variables like BGREM_PORT=tcp://…, which settings could take for their own.
        assert pod["enableServiceLinks"] is False, one.name
        for container in one.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, (one.name, container["name"])
            assert not any("hostPort" in port for port in container.get("ports", []))


def test_the_pods_that_see_a_nodes_disk_are_alone_in_a_namespace_and_see_one_folder_of_it() -> None:
    (one,) = workloads("nodes")
    (manifest,) = of_kind("nodes", "DaemonSet")
    (volume,) = of_kind("nodes", "PersistentVolume")
    assert manifest["metadata"]["namespace"] == "enlight-nodes"
    assert [volume["hostPath"]["path"] for volume in one.pod["volumes"]] == [
        volume["spec"]["hostPath"]["path"]
    ]
    for container in one.containers:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"]["drop"] == ["ALL"]
    assert "volumeMounts" not in one.container("done")


@each(OVERLAYS)
def test_the_namespace_enforces_the_restricted_standard(folder: str) -> None:
    (namespace,) = of_kind(folder, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    inside = {one["metadata"].get("namespace") for one in render(folder)} - {None}
    assert inside == {namespace["metadata"]["name"]}


#: Without a probe, and why.
UNPROBED = {"main-api-background": "no port: see its file", "done": "sleeps"}


PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@each(APPLIED)
def test_every_container_is_probed_at_ports_that_it_has(folder: str) -> None:
    for one in workloads(folder):
        for container in one.lasting:
            if container["name"] in UNPROBED:
                continue
            wanted = ("livenessProbe",) if container["name"] == "worker" else PROBES
            for probe in wanted:
                assert probe in container, (one.name, container["name"], probe)
                port = container[probe].get("httpGet", container[probe].get("tcpSocket", {})).get("port")
                assert port is None or port in {named["name"] for named in container["ports"]}


@each(SERVICES)
def test_our_servers_are_ready_by_readyz_and_alive_by_healthz(folder: str) -> None:
    for one in workloads(folder):
        for container in one.servers:
            assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
            assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
            (port,) = container["ports"]
            assert environment(folder, container)["PORT"] == str(port["containerPort"])
            assert environment(folder, container)["HOST"] == "0.0.0.0"


def constant(file: str, name: str) -> int:
    """A module's constant, as its source has it."""
    for node in ast.parse((K8S.parent / file).read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
            return int(ast.literal_eval(node.value))
    raise AssertionError(f"{file} has no {name}")


#: gunicorn's end after the grace time (`_MARGIN_SECONDS` of enlight_common.web.serving).
def gunicorns_margin() -> int:
    return constant("enlight-common/src/enlight_common/web/serving.py", "_MARGIN_SECONDS")


@each(SERVICES)
def test_pods_have_the_time_to_drain_that_their_services_take(folder: str) -> None:
    for one in workloads(folder):
        given = one.pod["terminationGracePeriodSeconds"]
        variables = [environment(folder, container) for container in one.lasting]
        pauses = [
            c.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0) for c in one.lasting
        ]
        needed = max(pauses)
        for container, found in zip(one.lasting, variables, strict=True):
            if container["name"] == "worker":
                # A training's last checkpoint, unless drawings take longer.
                checkpoint = constant("dreambooth-api/src/dreambooth_api/worker/instance.py", "_STOP_S")
                needed += max(int(found["GRACE_S"] or 0), checkpoint)
            elif "GRACE_S" in found:
                needed += int(found["GRACE_S"] or 0) + gunicorns_margin()
        assert given > needed, one.name


@each(SERVICES)
def test_what_takes_requests_waits_before_it_leaves_until_nobody_sends_any(folder: str) -> None:
    for one in workloads(folder):
        if one.kind == "ScaledJob":
            continue  # nobody calls it but its own worker, which leaves first
        for container in one.servers:
            assert container["lifecycle"]["preStop"]["sleep"]["seconds"] >= 5, one.name
