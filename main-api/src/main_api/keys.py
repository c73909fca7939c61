"""``python -m main_api.keys``: make, list and revoke keys of tenants and of GPU machines.

    create --tenant acme --scopes train,generate,read [--name …] [--expires-days N]
    list [--tenant acme]
    revoke KEY_ID
    node-keys create [--name …] [--expires-days N] | list | revoke KEY_ID

A key is printed once, by `create`; nobody can read it anywhere later.
"""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from collections.abc import Sequence
from typing import Any, get_args

from enlight_common.errors import EnlightError
from enlight_common.ids import check_id
from enlight_common.settings import SettingsError

from main_api.clock import now_ms, rfc3339
from main_api.records.keys import Keys, Scope
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
        service.records.tenants.ensure(tenant)
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


def _revoke(service: Service, keys: Keys, asked: argparse.Namespace) -> int:
    document = keys.revoke(check_id(asked.key_id, "KEY_ID"))
    service.access.forget_key(keys, asked.key_id)
    if document is None:
        print("keys: there is no valid key of this id", file=sys.stderr)
        return _FAILED
    _note(service, f"{_kind(asked)}.revoke", document)
    print(json.dumps(_shown(document)))
    return 0


def _kind(asked: argparse.Namespace) -> str:
    return "node-key" if asked.node else "key"


def _note(service: Service, action: str, document: dict[str, Any]) -> None:
    actor = f"command:{getpass.getuser()}"
    service.records.audit.record(action, tenant=document["tenant"], actor=actor, target=document["_id"])


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m main_api.keys", description="Keys of tenants and nodes.")
    commands = parser.add_subparsers(required=True)
    _add_commands(commands, node=False)
    nodes = commands.add_parser("node-keys", help="keys of GPU machines")
    _add_commands(nodes.add_subparsers(required=True), node=True)
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
    revoke = commands.add_parser("revoke", help="make a key invalid, now")
    revoke.add_argument("key_id")
    revoke.set_defaults(run=_revoke, node=node)


if __name__ == "__main__":
    sys.exit(main())
