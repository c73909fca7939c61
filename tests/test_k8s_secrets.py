"""k8s/create-secrets.sh and create-node-key.sh, with a kubectl that keeps secrets in a folder."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from k8s_manifests import K8S

#: Its arguments go to a file; what `create -f -` reads becomes a file; FAIL_AT makes one creation fail.
KUBECTL = r"""#!/usr/bin/env bash
set -euo pipefail
printf '%s\n' "$*" >>"$CLUSTER/calls"
[[ $1 != -n ]] || shift 2
case "$1 $2" in
  "get namespace") [[ -e $CLUSTER/namespace ]] || { echo "not found" >&2; exit 1; } ;;
  "get secret")
    [[ -e $CLUSTER/$3.yaml ]] || exit 0
    if [[ ${*: -1} == name ]]; then echo "secret/$3"; else
      key=${*: -1}; key=${key#*.data.}; key=${key%\}}
      sed -nE "s/^  $key: \"(.*)\"$/\1/p" "$CLUSTER/$3.yaml" | tr -d '\n' | base64 -w 0
    fi ;;
  "create -f")
    text=$(cat)
    name=$(sed -nE 's/^  name: (.*)$/\1/p' <<<"$text")
    [[ $name != "${FAIL_AT:-}" ]] || { echo "the connection was lost" >&2; exit 1; }
    [[ ! -e $CLUSTER/$name.yaml ]] || { echo "already exists" >&2; exit 1; }
    printf '%s\n' "$text" >"$CLUSTER/$name.yaml" ;;
  "rollout status") [[ ! -e $CLUSTER/down ]] ;;
  "exec deployment/main-api") echo '{"id": "k1", "name": "cluster", "key": "enn_k1_secret-part"}' ;;
  *) echo "no such command: $*" >&2; exit 64 ;;
esac
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    folder = tmp_path / "a cluster"
    (folder / "bin").mkdir(parents=True)
    kubectl = folder / "bin/kubectl"
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    (folder / "namespace").touch()
    return folder


def run(cluster: Path, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = {"PATH": f"{cluster}/bin:{os.environ['PATH']}", "CLUSTER": str(cluster)}
    return subprocess.run(
        [K8S / script, *arguments],
        env={**os.environ, **path, **variables},
        cwd=cluster,
        capture_output=True,
        text=True,
        timeout=60,
    )


def secrets(cluster: Path) -> dict[str, dict[str, str]]:
    made = (yaml.safe_load(file.read_text()) for file in cluster.glob("*.yaml"))
    return {one["metadata"]["name"]: one["stringData"] for one in made}


def test_all_secrets_are_made_and_name_each_others_passwords(cluster: Path) -> None:
    done = run(cluster, "create-secrets.sh")
    assert done.returncode == 0, done.stderr
    made = secrets(cluster)
    passwords = {name: made[f"enlight-{name}"]["password"] for name in ("mongodb", "redis", "broker")}
    assert made["enlight-main-api"]["mongo-url"] == (
        f"mongodb://enlight:{passwords['mongodb']}@mongodb:27017/?authSource=admin"
    )
    assert made["enlight-main-api"]["redis-url"] == f"redis://:{passwords['redis']}@redis:6379/0"
    assert made["enlight-main-api"]["broker-url"] == f"redis://:{passwords['broker']}@broker:6379/0"
    values = [*passwords.values(), made["enlight-main-api"]["signing-secret"]]
    assert len(set(values)) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", value) for value in values)


def test_no_secret_is_on_a_command_line_or_in_the_output(cluster: Path) -> None:
    outputs = [run(cluster, script) for script in ("create-secrets.sh", "create-node-key.sh")]
    shown = (cluster / "calls").read_text() + "".join(done.stdout + done.stderr for done in outputs)
    for made in secrets(cluster).values():
        for value in made.values():
            assert value not in shown


def test_a_second_run_changes_nothing(cluster: Path) -> None:
    run(cluster, "create-secrets.sh")
    before = secrets(cluster)
    done = run(cluster, "create-secrets.sh")
    assert (done.returncode, secrets(cluster)) == (0, before)


@pytest.mark.parametrize("name", ["enlight-redis", "enlight-main-api"])
def test_a_run_that_was_cut_short_is_finished_by_the_next(cluster: Path, name: str) -> None:
    done = run(cluster, "create-secrets.sh", FAIL_AT=name)
    assert done.returncode != 0
    assert "the connection was lost" in done.stderr
    kept = secrets(cluster)
    assert name not in kept

    assert run(cluster, "create-secrets.sh").returncode == 0
    made = secrets(cluster)
    assert kept.items() <= made.items()
    assert made["enlight-redis"]["password"] in made["enlight-main-api"]["redis-url"]


def test_the_node_key_is_what_main_api_made(cluster: Path) -> None:
    assert run(cluster, "create-node-key.sh").returncode == 0
    assert secrets(cluster)["enlight-node"] == {"node-key": "enn_k1_secret-part"}
    calls = (cluster / "calls").read_text()
    assert run(cluster, "create-node-key.sh").returncode == 0
    assert (cluster / "calls").read_text().count("exec") == calls.count("exec") == 1


def test_what_is_missing_is_said_before_anything_is_made(cluster: Path) -> None:
    (cluster / "down").touch()
    done = run(cluster, "create-node-key.sh")
    assert (done.returncode, secrets(cluster)) == (1, {})
    assert "main-api is not ready" in done.stderr

    (cluster / "namespace").unlink()
    for script in ("create-secrets.sh", "create-node-key.sh"):
        done = run(cluster, script, NAMESPACE="elsewhere")
        assert (done.returncode, secrets(cluster)) == (1, {})
        assert "kubectl create namespace elsewhere" in done.stderr


@pytest.mark.parametrize("script", ["create-secrets.sh", "create-node-key.sh", "schemas/fetch.sh"])
def test_help_is_shown_and_an_unknown_option_refused(cluster: Path, script: str) -> None:
    done = run(cluster, script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    assert run(cluster, script, "--froce").returncode == 2
    assert not (cluster / "calls").exists()
