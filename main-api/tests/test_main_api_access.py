"""Keys, scopes, tenants and limits."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from main_api import keys
from main_api.clock import now_ms
from main_api.limits import RateLimits
from main_api.records.keys import Presented
from main_api.redis_link import RedisLink
from main_api_servers import Api, MainApi, RedisServer, free_port

TRAINING = {"model_id": "m", "instance_prompt": "a sks shoe", "photos": ["upload:none"]}


@dataclass(frozen=True)
class Ran:
    status: int
    out: str


@pytest.fixture
def command(
    main_api: MainApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """`python -m main_api.keys` with the service's settings, without another interpreter."""
    for name, value in main_api.settings.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Ran:
        try:
            status = keys.main(arguments)
        except SystemExit as left:
            status = int(left.code or 0)
        return Ran(status, capsys.readouterr().out)

    return run


def test_a_key_of_the_command_opens_the_door_until_it_is_revoked(
    main_api: MainApi, command: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "main_api.keys", "create", "--tenant", "acme", "--scopes", "generate,read"],
        env={**os.environ, **main_api.settings},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert made.returncode == 0, made.stderr
    key = json.loads(made.stdout)
    client = Api(main_api.url, key["key"])
    assert client.get("/v1/jobs").status_code == 200
    assert httpx.get(f"{main_api.url}/v1/jobs", headers={"X-Api-Key": key["key"]}).status_code == 200

    listed = command("list", "--tenant", "acme").out
    assert [json.loads(line)["id"] for line in listed.splitlines()] == [key["id"]]
    assert key["key"] not in listed
    monkeypatch.setattr("sys.stdin", io.StringIO(key["key"] + "\n"))
    assert command("verify").status == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(key["key"].replace("enl_", "enn_")))
    assert command("node-keys", "verify").status == 1
    assert command("revoke", key["id"]).status == 0
    assert client.get("/v1/jobs").status_code == 401
    assert command("revoke", key["id"]).status == 1
    assert command("create", "--tenant", "../acme", "--scopes", "read").status == 1
    assert command("create", "--tenant", "acme", "--scopes", "root").status == 2


def test_the_command_sets_and_shows_a_tenants_quotas(main_api: MainApi, command: Callable[..., Ran]) -> None:
    tenant = main_api.as_tenant("quotas-1")
    before = tenant.get("/v1/tenant").json()["quotas"]
    assert json.loads(command("quotas", "--tenant", "quotas-1").out)["quotas"] == before
    ran = command("quotas", "--tenant", "quotas-1", "max_queued=3", "photo_retention_days=30")
    expected = {**before, "max_queued": 3, "photo_retention_days": 30}
    assert json.loads(ran.out) == {"tenant": "quotas-1", "quotas": expected}
    assert tenant.get("/v1/tenant").json()["quotas"] == expected
    (entry,) = tenant.get("/v1/audit").json()["records"]
    assert (entry["action"], entry["details"]) == (
        "tenant.change",
        {"max_queued": 3, "photo_retention_days": 30},
    )
    for wrong in ("max_queued=0", "max_queued=-1", "max_queued=none", "max_queued", "queued=5"):
        assert command("quotas", "--tenant", "quotas-1", wrong).status == 2
    assert command("quotas", "--tenant", "quotas-none", "max_queued=3").status == 1
    assert command("quotas", "--tenant", "quotas-1", "photo_retention_days=none").status == 0
    assert tenant.get("/v1/tenant").json()["quotas"] == {**before, "max_queued": 3}


def test_a_node_key_is_made_listed_and_revoked(main_api: MainApi, command: Callable[..., Ran]) -> None:
    key = json.loads(command("node-keys", "create", "--name", "gpu1").out)
    node = Api(main_api.url, key["key"])
    assert node.claim(kinds=("training",)) is None
    assert key["id"] in command("node-keys", "list").out
    assert command("node-keys", "revoke", key["id"]).status == 0
    body = {"worker": "gpu1", "kinds": ["training"], "base_models": ["enlight/tiny-sd"]}
    assert node.post("/internal/v1/claims", json=body).status_code == 401


def test_nothing_secret_is_stored(main_api: MainApi) -> None:
    service = main_api.service()
    document, key = service.records.keys.create(tenant="acme", scopes=("read",))
    stored = json.dumps(service.records.keys.get(document["_id"]))
    presented = Presented.parse(key)
    assert presented is not None
    assert presented.secret not in stored
    service.database.close()


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer x"},
        {"Authorization": "Basic eDp5"},
        {"Authorization": f"Bearer enl_{'0' * 26}_{'a' * 43}"},
        {"X-Api-Key": "é".encode()},
    ],
)
def test_without_a_valid_key_there_is_nothing(main_api: MainApi, header: dict[str, Any]) -> None:
    answer = httpx.get(f"{main_api.url}/v1/jobs", headers=header)
    assert (answer.status_code, answer.json()["type"]) == (401, "/problems/unauthorized")


def test_an_expired_key_and_a_key_of_the_other_kind_are_refused(main_api: MainApi) -> None:
    service = main_api.service()
    _, expired = service.records.keys.create(tenant="acme", scopes=("read",), expires_at=now_ms() - 1)
    service.database.close()
    assert Api(main_api.url, expired).get("/v1/jobs").status_code == 401
    assert Api(main_api.url, main_api.as_node().key).get("/v1/jobs").status_code == 401
    body = {"worker": "gpu1", "kinds": ["training"], "base_models": ["enlight/tiny-sd"]}
    tenants = main_api.as_tenant("access-1")
    assert tenants.post("/internal/v1/claims", json=body).status_code == 401


def test_a_tenants_key_does_not_open_a_nodes_door_after_it_was_used(main_api: MainApi) -> None:
    tenant, node = main_api.as_tenant("access-10"), main_api.as_node()
    assert tenant.get("/v1/jobs").status_code == 200
    assert node.claim(kinds=("training",)) is None
    body = {"worker": "gpu1", "kinds": ["training"], "base_models": ["enlight/tiny-sd"]}
    dressed = Api(main_api.url, tenant.key.replace("enl_", "enn_", 1))
    for path in ("/internal/v1/claims", "/internal/v1/store/urls", "/internal/v1/jobs/none/renewal"):
        answer = dressed.post(path, json=body)
        assert (answer.status_code, answer.json()["type"]) == (401, "/problems/unauthorized"), path
    assert Api(main_api.url, node.key.replace("enn_", "enl_", 1)).get("/v1/jobs").status_code == 401


def test_each_scope_opens_what_is_its_own(main_api: MainApi) -> None:
    calls: dict[str, Any] = {
        "train": lambda client: client.post("/v1/trainings", json=TRAINING),
        "generate": lambda client: client.post("/v1/generations", json={"prompt": "a shoe"}),
        "read": lambda client: client.get("/v1/jobs"),
        "admin": lambda client: client.get("/v1/keys"),
    }
    for scope in ("train", "generate", "read", "admin"):
        client = main_api.as_tenant("access-2", scope)  # type: ignore[arg-type]
        for needed, call in calls.items():
            answer = call(client)
            if needed == scope or scope == "admin":
                assert answer.status_code in (200, 202, 422), (scope, needed, answer.text)
            else:
                assert answer.json()["type"] == "/problems/out-of-scope", (scope, needed)


def test_another_tenants_ids_are_not_found(main_api: MainApi) -> None:
    owner, stranger = main_api.as_tenant("access-3"), main_api.as_tenant("access-4")
    job_id = owner.generation()
    for method, path in (
        ("GET", f"/v1/jobs/{job_id}"),
        ("GET", f"/v1/jobs/{job_id}/events"),
        ("POST", f"/v1/jobs/{job_id}/cancel"),
    ):
        strange, none = stranger.request(method, path), stranger.request(method, "/v1/jobs/none")
        assert strange.status_code == 404
        assert none.status_code == 404 or "events" in path or "cancel" in path
    assert stranger.get("/v1/jobs").json()["jobs"] == []
    answer = stranger.post("/v1/upscales", json={"image": f"job:{job_id}/0"})
    assert (answer.status_code, answer.json()["field"]) == (422, "image")
    assert owner.job(job_id)["status"] == "queued"
    owner.post(f"/v1/jobs/{job_id}/cancel")


def test_an_administrator_makes_and_revokes_keys_and_every_change_is_on_record(main_api: MainApi) -> None:
    admin = main_api.as_tenant("access-5")
    made = admin.post("/v1/keys", json={"name": "shop", "scopes": ["read"], "expires_days": 30})
    assert made.status_code == 201
    key = made.json()
    reader = Api(main_api.url, key["key"])
    assert reader.get("/v1/jobs").status_code == 200
    assert reader.get("/v1/keys").status_code == 403
    assert admin.delete(f"/v1/keys/{key['id']}").status_code == 204
    assert reader.get("/v1/jobs").status_code == 401
    assert main_api.as_tenant("access-6").delete(f"/v1/keys/{key['id']}").status_code == 404
    admin.patch("/v1/tenant", json={"picture_retention_days": 30})
    assert admin.get("/v1/tenant").json()["quotas"]["picture_retention_days"] == 30
    records = admin.get("/v1/audit").json()["records"]
    assert [record["action"] for record in records] == ["tenant.change", "key.revoke", "key.create"]
    assert {record["actor"].partition(":")[0] for record in records} == {"key"}


def test_the_rate_limit_is_told_and_kept(main_api: MainApi) -> None:
    tenant = main_api.as_tenant("access-7", requests_a_minute=5)
    answers = [tenant.get("/v1/jobs") for _ in range(7)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
    assert answers[0].headers["RateLimit-Policy"] == '"requests";q=5;w=60'
    assert answers[0].headers["RateLimit"].startswith('"requests";r=4;')
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 12
    assert answers[-1].json()["type"] == "/problems/rate-limited"


def test_the_limit_is_the_same_with_redis_and_without(redis: RedisServer) -> None:
    there = RateLimits(RedisLink(redis.url))
    moment = [1000.0]
    away = RateLimits(RedisLink(f"redis://127.0.0.1:{free_port()}/0"), clock=lambda: moment[0])
    for limits in (there, away):
        taken = [limits.take("tenant", 3) for _ in range(4)]
        assert [one.allowed for one in taken] == [True, True, True, False]
        assert [one.remaining for one in taken] == [2, 1, 0, 0]
        assert 15 < taken[-1].retry_after_s <= 20
        assert limits.take("another", 3).allowed
    moment[0] += 20.5
    assert away.take("tenant", 3).allowed
    assert not away.take("tenant", 3).allowed


def test_quotas_of_trainings_and_bytes_are_kept(main_api: MainApi) -> None:
    tenant = main_api.as_tenant("access-8", max_trainings_a_day=0)
    answer = tenant.post("/v1/trainings", json=TRAINING)
    assert (answer.status_code, answer.json()["quota"]) == (429, "max_trainings_a_day")
    small = main_api.as_tenant("access-9", max_stored_bytes=100)
    answer = small.post("/v1/uploads", json={"size": 101})
    assert (answer.status_code, answer.json()["quota"]) == (429, "max_stored_bytes")
    assert small.post("/v1/uploads", json={"size": 99}).status_code == 201


def test_the_service_does_not_start_without_its_secret_or_with_a_short_one(main_api: MainApi) -> None:
    for secret in (None, "short"):
        settings = {**os.environ, **main_api.settings}
        del settings["SIGNING_SECRET"]
        if secret is not None:
            settings["SIGNING_SECRET"] = secret
        done = subprocess.run(
            [sys.executable, "-m", "main_api"], env=settings, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2
        assert "SIGNING_SECRET" in done.stderr
        assert "short" not in done.stderr
