"""``python -m main_api.keys``: make, list and revoke keys of tenants and of GPU machines; set quotas.

    verify < KEY                             exit status 0 where it is valid
    create --tenant acme --scopes train,generate,read [--name …] [--expires-days N]
    list [--tenant acme]
    revoke KEY_ID
    node-keys create [--name …] [--expires-days N] | list | revoke KEY_ID
    quotas --tenant acme [max_queued=50 …]

A key is printed once, by `create`; nobody can read it anywhere later.
"""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, get_args

from enlight_common.errors import EnlightError
from enlight_common.ids import check_id
from enlight_common.settings import SettingsError

from main_api.clock import now_ms, rfc3339
from main_api.records.keys import Keys, Presented, Scope
from main_api.records.tenants import QUOTA_BOUNDS, RETENTION_FIELDS
from main_api.service import Service
from main_api.settings import MainApiSettings

_DAY_MS = 24 * 3600 * 1000
_FAILED = 1
_BAD_USE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status; what was made or found goes to stdout as one JSON object a line."""
    asked = _parser().parse_args(arguments)
    try:
        service = Service(MainApiSettings.from_environment())
        keys = service.records.node_keys if asked.node else service.records.keys
        return int(asked.run(service, keys, asked))
    except SettingsError as error:
        print(f"keys: {error}", file=sys.stderr)
        return _BAD_USE
    except EnlightError as error:
        print(f"keys: {error.detail}", file=sys.stderr)
        return _FAILED


def _create(service: Service, keys: Keys, asked: argparse.Namespace) -> int:
    tenant: str | None = None
    if not asked.node:
        tenant = check_id(asked.tenant, "--tenant")
        if service.records.tenants.ensure(tenant):
            service.records.audit.record("tenant.create", tenant=tenant, actor=_actor(), target=tenant)
    expires = now_ms() + asked.expires_days * _DAY_MS if asked.expires_days else None
    document, key = keys.create(
        name=asked.name, tenant=tenant, scopes=getattr(asked, "scopes", ()), expires_at=expires
    )
    _note(service, f"{_kind(asked)}.create", document)
    print(json.dumps({**_shown(document), "key": key}))
    return 0


def _list(service: Service, keys: Keys, asked: argparse.Namespace) -> int:
    for document in keys.list(getattr(asked, "tenant", None)):
        print(json.dumps(_shown(document)))
    return 0


def _verify(service: Service, keys: Keys, asked: argparse.Namespace) -> int:
    presented = Presented.parse(sys.stdin.readline().strip())
    document = keys.get(presented.id) if presented is not None and presented.prefix == keys.prefix else None
    if presented is None or not presented.opens(document, now_ms()):
        print("keys: this is no valid key", file=sys.stderr)
        return _FAILED
    return 0


def _revoke(service: Service, keys: Keys, asked: argparse.Namespace) -> int:
    document = keys.revoke(check_id(asked.key_id, "KEY_ID"))
    service.access.forget_key(keys, asked.key_id)
    if document is None:
        print("keys: there is no valid key of this id", file=sys.stderr)
        return _FAILED
    _note(service, f"{_kind(asked)}.revoke", document)
    print(json.dumps(_shown(document)))
    return 0


def _quotas(service: Service, _: Keys, asked: argparse.Namespace) -> int:
    """Show the tenant's quotas, as they are after those that are named were set."""
    tenants, tenant = service.records.tenants, check_id(asked.tenant, "--tenant")
    values = dict(asked.values)
    if values and tenants.set_quotas(tenant, values):
        service.access.forget_tenant(tenant)
        service.records.audit.record("tenant.change", tenant=tenant, actor=_actor(), target=tenant, **values)
    document = tenants.get(tenant)
    if document is None:
        print("keys: there is no tenant of this name", file=sys.stderr)
        return _FAILED
    print(json.dumps({"tenant": tenant, "quotas": asdict(tenants.quotas_of(document))}))
    return 0


def _kind(asked: argparse.Namespace) -> str:
    return "node-key" if asked.node else "key"


def _note(service: Service, action: str, document: dict[str, Any]) -> None:
    service.records.audit.record(action, tenant=document["tenant"], actor=_actor(), target=document["_id"])


def _actor() -> str:
    return f"command:{getpass.getuser()}"


def _shown(document: dict[str, Any]) -> dict[str, Any]:
    shown = {"id": document["_id"], "name": document["name"]}
    if document["tenant"] is not None:
        shown |= {"tenant": document["tenant"], "scopes": document["scopes"]}
    times = ("created_at", "expires_at", "revoked_at")
    return shown | {name: rfc3339(document[name]) for name in times}


def _scopes(text: str) -> tuple[Scope, ...]:
    scopes = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(scope in get_args(Scope) for scope in scopes):
        raise argparse.ArgumentTypeError(f"must be some of {','.join(get_args(Scope))}")
    return scopes  # type: ignore[return-value]


def _days(text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text) <= 36_500:
        return int(text)
    raise argparse.ArgumentTypeError("must be a whole number of days from 1 to 36500")


def _name(text: str) -> str:
    if len(text) <= 100 and text.isprintable():
        return text
    raise argparse.ArgumentTypeError("must be at most 100 printable characters")


def _quota(text: str) -> tuple[str, int | None]:
    """`name=value`, `none` for what is to be kept until it is deleted."""
    name, _, value = text.partition("=")
    if name not in QUOTA_BOUNDS:
        raise argparse.ArgumentTypeError(f"must be name=value, the name one of {', '.join(QUOTA_BOUNDS)}")
    if value == "none" and name in RETENTION_FIELDS:
        return name, None
    least, most = QUOTA_BOUNDS[name]
    if value.isascii() and value.isdigit() and len(value) <= len(str(most)) and least <= int(value) <= most:
        return name, int(value)
    also = " or none" if name in RETENTION_FIELDS else ""
    raise argparse.ArgumentTypeError(f"{name} must be a whole number from {least} to {most}{also}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m main_api.keys", description="Keys and quotas.")
    commands = parser.add_subparsers(required=True)
    _add_commands(commands, node=False)
    nodes = commands.add_parser("node-keys", help="keys of GPU machines")
    _add_commands(nodes.add_subparsers(required=True), node=True)
    quotas = commands.add_parser("quotas", help="show what a tenant may use, or set it")
    quotas.add_argument("--tenant", required=True)
    quotas.add_argument("values", nargs="*", type=_quota, metavar="NAME=VALUE", help=", ".join(QUOTA_BOUNDS))
    quotas.set_defaults(run=_quotas, node=False)
    return parser


def _add_commands(commands: Any, *, node: bool) -> None:
    create = commands.add_parser("create", help="make a key and print it")
    if not node:
        create.add_argument("--tenant", required=True)
        create.add_argument("--scopes", required=True, type=_scopes, metavar="train,generate,read,admin")
    create.add_argument("--name", default="", type=_name, help="to tell keys apart")
    create.add_argument("--expires-days", type=_days)
    create.set_defaults(run=_create, node=node)
    listing = commands.add_parser("list", help="list keys, newest first")
    if not node:
        listing.add_argument("--tenant")
    listing.set_defaults(run=_list, node=node)
    verify = commands.add_parser("verify", help="read a key and tell whether it is valid")
    verify.set_defaults(run=_verify, node=node)
    revoke = commands.add_parser("revoke", help="make a key invalid, now")
    revoke.add_argument("key_id")
    revoke.set_defaults(run=_revoke, node=node)


if __name__ == "__main__":
    sys.exit(main())
