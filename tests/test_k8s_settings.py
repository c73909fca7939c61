"""What pods under k8s/ are told: variables that their programs read, and secrets by their names."""

from __future__ import annotations

import re

from bgrem.settings import ServiceSettings as BgremSettings
from dreambooth_api.settings import ServiceSettings as DreamboothSettings
from dreambooth_api.worker.settings import WorkerSettings
from enlight_common.settings import Settings
from k8s_manifests import APPLIED, K8S, OVERLAYS, SERVICES, each, environment, of_kind, workloads
from main_api.settings import MainApiSettings
from realesrgan_service.settings import ServiceSettings as RealesrganSettings
from upsampler.settings import UpsamplerSettings

SETTINGS: dict[str, type[Settings]] = {
    "main-api": MainApiSettings,
    "main-api-background": MainApiSettings,
    "instance": DreamboothSettings,
    "worker": WorkerSettings,
    "bgrem": BgremSettings,
    "upsampler": UpsamplerSettings,
    "realesrgan": RealesrganSettings,
}


#: Read by libraries: places for files outside the read-only root, and the key of enlight+http stores.
LIBRARIES = {"HOME", "HF_HOME", "NUMBA_CACHE_DIR", "ENLIGHT_NODE_KEY"}


@each(APPLIED)
def test_secrets_are_named_and_never_written_down(folder: str) -> None:
    assert of_kind(folder, "Secret") == []
    telling = re.compile(r"(PASSWORD|SECRET|TOKEN|KEY|MONGO_URL|REDIS_URL|BROKER_URL)$")
    for one in workloads(folder):
        for container in one.containers:
            for name, value in environment(folder, container).items():
                assert not (telling.search(name) and value), (one.name, name)
                assert "@" not in (value or "") or "://" not in (value or ""), (one.name, name)


#: Each secret's keys, as k8s/create-secrets.sh makes them.
KEYS = {
    "enlight-main-api": {"signing-secret", "mongo-url", "redis-url", "broker-url"},
    "enlight-redis": {"password"},
    "enlight-broker": {"password"},
    "enlight-mongodb": {"password"},
    "enlight-node": {"node-key"},
}


@each(SERVICES)
def test_the_secrets_that_pods_name_are_made(folder: str) -> None:
    named: dict[str, set[str]] = {}
    for one in workloads(folder):
        for container in one.containers:
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    named.setdefault(reference["name"], set()).add(reference["key"])
    for name, keys in named.items():
        assert keys <= KEYS[name], name
    if external := of_kind(folder, "ExternalSecret"):
        made = {
            one["spec"]["target"]["name"]: {key["secretKey"] for key in one["spec"]["data"]}
            for one in external
        }
        assert made == named


@each(SERVICES)
def test_every_variable_is_one_that_its_program_reads(folder: str) -> None:
    for one in workloads(folder):
        for container in one.containers:
            known = SETTINGS.get(container["name"])
            if known is None:
                continue
            read = {field.upper() for field in known.model_fields} | LIBRARIES
            if script := re.search(r"/(\w+\.py)", " ".join(container.get("command", []))):
                read |= set(
                    re.findall(r'environ\["(\w+)"\]', (K8S / "components/keda" / script[1]).read_text())
                )
            unknown = environment(folder, container).keys() - read
            assert unknown == set(), (one.name, container["name"])


@each(SERVICES)
def test_every_value_is_one_that_its_program_takes(folder: str) -> None:
    for one in workloads(folder):
        for container in one.containers:
            if known := SETTINGS.get(container["name"]):
                found = environment(folder, container)
                # What the cluster has is long enough.
                known.model_validate({name.lower(): value or "x" * 40 for name, value in found.items()})


@each(SERVICES)
def test_all_parts_of_main_api_and_its_instances_draw_with_the_same_base_model(folder: str) -> None:
    found = {
        environment(folder, container).get("BASE_MODEL")
        for one in workloads(folder)
        for container in one.containers
        if SETTINGS.get(container["name"]) in (MainApiSettings, DreamboothSettings)
    }
    assert len(found) <= 1


@each(OVERLAYS)
def test_addresses_in_settings_are_services_that_are_there(folder: str) -> None:
    services = {one["metadata"]["name"]: one for one in of_kind(folder, "Service")}
    found = set()
    for one in workloads(folder):
        for container in one.containers:
            for value in environment(folder, container).values():
                if match := re.match(r"(?:enlight\+)?http://([a-z][a-z-]*):(\d+)", value or ""):
                    ports = {port["port"] for port in services[match[1]]["spec"]["ports"]}
                    assert int(match[2]) in ports
                    found.add(match[1])
    assert found == {"main-api", "dreambooth", "bgrem", "upsampler", "realesrgan"}
