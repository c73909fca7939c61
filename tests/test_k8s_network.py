"""Who may call whom in the cluster: what settings and monitors name, and nothing else."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from k8s_manifests import K8S, OVERLAYS, Manifest, each, environment, of_kind, selects, workloads

#: Which of the addresses in its settings each process calls; main-api's two processes are told the same ones.
CALLS = {
    "main-api": {"DREAMBOOTH_URL"},
    "main-api-background": {"BGREM_URL", "UPSAMPLER_URL", "REALESRGAN_URL"},
    "instance": {"MODEL_STORE_URL"},
    "worker": {"MAIN_API_URL"},
}
#: What each asks the internet for: buckets, the hub, weights on 443; webhooks where clients want them.
INTERNET = {
    "main-api": {443},
    "main-api-background": {80, 443, 8080, 8443},
    "dreambooth-api": {443},
    "dreambooth-training": {443},
    "bgrem": {443},
    "upsampler": {443},
    "realesrgan": {443},
}
STORES = ("mongodb", "redis", "broker")
PUBLIC, PRIVATE, METADATA, MANAGED = "93.184.215.14", "192.168.1.7", "169.254.169.254", "10.20.3.4"


@dataclass(frozen=True)
class Peer:
    """Somebody with an end of an arrow: a pod of the namespace, a pod of another, or an address."""

    name: str
    labels: dict[str, str] = field(default_factory=dict, hash=False)
    namespace: str | None = None  # None: the one that the policies are in
    address: str | None = None


DNS = Peer("dns", {"k8s-app": "kube-dns"}, "kube-system")
OUTSIDE = [
    DNS,
    Peer("another pod of kube-system", {"k8s-app": "metrics-server"}, "kube-system"),
    *(Peer(name, {}, name) for name in ("ingress-nginx", "monitoring", "keda", "default")),
    *(Peer(address, address=address) for address in (PUBLIC, PRIVATE, METADATA, MANAGED)),
]
Arrow = tuple[str, str, int]


def is_peer(rule: Manifest, peer: Peer) -> bool:
    if "ipBlock" in rule:
        if peer.address is None:
            return False
        address, block = ipaddress.ip_address(peer.address), rule["ipBlock"]
        if address not in ipaddress.ip_network(block["cidr"]):
            return False
        return not any(address in ipaddress.ip_network(part) for part in block.get("except", []))
    if peer.address is not None:
        return False
    if "namespaceSelector" in rule:
        name = {"kubernetes.io/metadata.name": peer.namespace or "enlight"}
        if not selects(rule["namespaceSelector"], name):
            return False
    elif peer.namespace is not None:
        return False
    return selects(rule.get("podSelector", {}), peer.labels)


def is_port(rule: Manifest, protocol: str, port: int) -> bool:
    if rule.get("protocol", "TCP") != protocol:
        return False
    first: int = rule["port"]
    last: int = rule.get("endPort", first)
    return first <= port <= last


def opened(policies: list[Manifest], direction: str, of: Peer, peer: Peer, protocol: str, port: int) -> bool:
    """Whether the policies let this through at one of its ends, as Kubernetes reads them."""
    mine = [
        one["spec"]
        for one in policies
        if direction in one["spec"]["policyTypes"] and selects(one["spec"]["podSelector"], of.labels)
    ]
    if of.namespace is not None or of.address is not None or not mine:
        return True  # nobody's policies: all is open
    ends = {"Ingress": ("ingress", "from"), "Egress": ("egress", "to")}[direction]
    return any(
        (ends[1] not in rule or any(is_peer(one, peer) for one in rule[ends[1]]))
        and ("ports" not in rule or any(is_port(one, protocol, port) for one in rule["ports"]))
        for spec in mine
        for rule in spec.get(ends[0], [])
    )


def open_arrows(folder: str, protocol: str = "TCP") -> set[Arrow]:
    """Every pair and port that the policies let through, between pods, and between them and the outside."""
    policies = of_kind(folder, "NetworkPolicy")
    pods = [Peer(one.name, one.labels) for one in workloads(folder)]
    ports = ports_to_try(folder)
    return {
        (source.name, target.name, port)
        for source in [*pods, *OUTSIDE]
        for target in [*pods, *OUTSIDE]
        for port in ports
        if (source in pods or target in pods)
        and opened(policies, "Egress", source, target, protocol, port)
        and opened(policies, "Ingress", target, source, protocol, port)
    }


def ports_to_try(folder: str) -> set[int]:
    """All that something listens on, and some that others do."""
    own = [port for one in workloads(folder) for c in one.lasting for port in c.get("ports", [])]
    others = {22, 53, 80, 443, 988, 1025, 6378, 6379, 8080, 8443, 9090, 27015, 27017}
    return others | {port["containerPort"] for port in own}


def named_arrows(folder: str) -> set[Arrow]:
    """The arrows that settings, scripts, monitors and triggers name."""
    services = {
        one["metadata"]["name"]: one["spec"]["selector"]["app.kubernetes.io/name"]
        for one in of_kind(folder, "Service")
    }
    secrets = (K8S / "create-secrets.sh").read_text()
    stores = {name: int(port) for name, port in re.findall(r"@(\w+):(\d+)/", secrets) if name in services}
    assert stores.keys() <= set(STORES)
    found: set[Arrow] = set()
    for one in workloads(folder):
        for container in one.lasting:
            told = environment(folder, container)
            for variable in CALLS.get(container["name"], ()):
                name, port = re.search(r"//([a-z-]+):(\d+)", told[variable] or "").groups()  # type: ignore[union-attr]
                found.add((one.name, services[name], int(port)))
            if "MONGO_URL" in told:
                found |= {(one.name, name, port) for name, port in stores.items()}
        if one.name == "dreambooth-nginx":
            script = (K8S / "base/dreambooth-nginx/start.sh").read_text()
            name, port = re.search(r"server ([a-z-]+)\.\$domain:(\d+)", script).groups()  # type: ignore[union-attr]
            found.add((one.name, services[name], int(port)))
    found |= {("ingress-nginx", "main-api", 8040), ("keda", "main-api", 8040)}
    found |= {("monitoring", one.name, port) for one in workloads(folder) for port in scraped(one)}
    found |= {(one.name, PUBLIC, port) for one in workloads(folder) for port in INTERNET.get(one.name, ())}
    return found


def scraped(one: Any) -> set[int]:
    """The ports with /metrics."""
    return {port["containerPort"] for container in one.servers for port in container["ports"]}


@each(OVERLAYS)
def test_every_arrow_that_something_names_is_open_and_no_other(folder: str) -> None:
    managed = {arrow for arrow in open_arrows(folder) if arrow[1] in (MANAGED, METADATA)}
    dns = {arrow for arrow in open_arrows(folder) if arrow[1] == DNS.name}
    assert open_arrows(folder) - managed - dns == named_arrows(folder)


@each(OVERLAYS)
def test_whoever_calls_somebody_may_ask_dns_and_nobody_else_may(folder: str) -> None:
    callers = {source for source, _, _ in named_arrows(folder)} & {one.name for one in workloads(folder)}
    for protocol in ("TCP", "UDP"):
        asking = {arrow for arrow in open_arrows(folder, protocol) if arrow[1] == DNS.name}
        assert asking == {(name, DNS.name, 53) for name in callers}
    assert {arrow[1] for arrow in open_arrows(folder, "UDP")} == {DNS.name}


@pytest.mark.parametrize(
    ("folder", "stores", "identity"),
    [
        ("overlays/dev", range(0), set()),
        ("overlays/gke", [6379, *range(27015, 27018)], {80, 988}),
        ("overlays/eks", range(1024, 65536), set()),
    ],
)
def test_only_main_api_reaches_managed_stores_and_the_clouds_identity(
    folder: str, stores: Sequence[int], identity: set[int]
) -> None:
    mine = ("main-api", "main-api-background")
    found = {arrow for arrow in open_arrows(folder) if arrow[1] in (MANAGED, METADATA)}
    wanted = {(name, MANAGED, port) for name in mine for port in ports_to_try(folder) if port in stores}
    assert found == wanted | {(name, METADATA, port) for name in mine for port in identity}


@each(OVERLAYS)
def test_a_pod_that_no_policy_names_reaches_nobody_and_is_reached_by_nobody(folder: str) -> None:
    policies = of_kind(folder, "NetworkPolicy")
    stranger = Peer("stranger", {"app.kubernetes.io/name": "stranger"})
    for peer in OUTSIDE:
        for port in ports_to_try(folder):
            assert not opened(policies, "Egress", stranger, peer, "TCP", port)
            assert not opened(policies, "Egress", stranger, peer, "UDP", port)
            assert not opened(policies, "Ingress", stranger, peer, "TCP", port)
