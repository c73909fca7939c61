"""The URL of a webhook, taken apart and checked as far as it can be without asking for its address."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

MAX_URL = 2000
DEFAULT_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"[!-~]+")
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")


class WrongTarget(Exception):
    """A URL that nothing is sent to; the message says why and holds nothing of it."""


@dataclass(frozen=True)
class Target:
    """Where a request goes. `path` with the query; `host` without the brackets of an IPv6 address."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str, ports: frozenset[int] | None) -> Target:
        """Raises WrongTarget. `ports` are those allowed, None all of them."""
        # A backslash is a slash to some clients: where they would go is nothing to guess at.
        if len(url) > MAX_URL or not _URL.fullmatch(url) or "\\" in url:
            raise WrongTarget(f"must be a URL of at most {MAX_URL} printable ASCII characters")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise WrongTarget("must be a URL") from None
        if parts.scheme not in DEFAULT_PORTS:
            raise WrongTarget("must be an http or https URL")
        if "@" in parts.netloc:
            raise WrongTarget("must have no user or password")
        host = parts.hostname or ""
        if not _HOST.fullmatch(host):
            raise WrongTarget("must name a host")
        port = DEFAULT_PORTS[parts.scheme] if port is None else port
        if ports is not None and port not in ports:
            raise WrongTarget(f"must have one of the ports {', '.join(map(str, sorted(ports)))}")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme, host, port, path)

    @property
    def authority(self) -> str:
        """As it stands in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def redirected(self, location: str, ports: frozenset[int] | None) -> Target:
        """Where a Location header leads from here. Raises WrongTarget."""
        base = f"{self.scheme}://{self.authority}{self.path}"
        try:
            url = urljoin(base, location)
        except ValueError:
            raise WrongTarget("must be a URL") from None
        target = Target.parse(url, ports)
        if self.scheme == "https" and target.scheme == "http":
            raise WrongTarget("must not lead from https to http")
        return target
