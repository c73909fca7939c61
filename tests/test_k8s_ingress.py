"""What of main-api the world reaches: every route for clients and GPU machines, and none for operators."""

from __future__ import annotations

import pytest
from k8s_manifests import Manifest, each, environment, of_kind, workload
from main_api.app import create_app
from main_api.service import Service
from main_api.settings import MainApiSettings

CLOUDS = ["overlays/gke", "overlays/eks"]
#: For probes and Prometheus, inside.
INSIDE = {"/metrics", "/healthz", "/readyz"}


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    nobody = "127.0.0.1:1"
    settings = {
        "signing_secret": "s" * 40,
        "data_dir": tmp_path_factory.mktemp("data"),
        "mongo_url": f"mongodb://{nobody}",
        "redis_url": f"redis://{nobody}/0",
        "broker_url": f"redis://{nobody}/0",
    }
    app = create_app(Service(MainApiSettings.model_validate(settings)))
    return {rule.rule for rule in app.url_map.iter_rules() if rule.endpoint != "static"}


def matches(path: Manifest, route: str) -> bool:
    """As an ingress controller does: prefixes by whole parts of the path."""
    if path["pathType"] == "Exact":
        return bool(route == path["path"])
    return route == path["path"] or route.startswith(path["path"].rstrip("/") + "/")


@each(CLOUDS)
def test_clients_reach_every_route_but_the_operators(folder: str, routes: set[str]) -> None:
    (ingress,) = of_kind(folder, "Ingress")
    (rule,) = ingress["spec"]["rules"]
    paths = rule["http"]["paths"]
    reached = {route for route in routes if any(matches(path, route) for path in paths)}
    assert routes - reached == INSIDE
    assert all(any(matches(path, route) for route in routes) for path in paths)


@each(CLOUDS)
def test_the_address_that_clients_are_told_is_the_one_with_the_certificate(folder: str) -> None:
    (ingress,) = of_kind(folder, "Ingress")
    (rule,) = ingress["spec"]["rules"]
    (tls,) = ingress["spec"]["tls"]
    assert tls["hosts"] == [rule["host"]]
    told = environment(folder, workload(folder, "main-api").container("main-api"))
    assert told["PUBLIC_URL"] == f"https://{rule['host']}"
