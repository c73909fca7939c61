"""The errors that only main-api answers with.

EnlightError
├── OutOfScope 403              the key is valid, and not for this
├── LeaseLost 409               the job is not, or no longer, the caller's
├── KeyReused 422               an Idempotency-Key that came with another request before
├── QuotaReached 429            `Retry-After` where waiting helps
└── RateLimited 429
"""

from __future__ import annotations

from enlight_common.errors import Conflict, EnlightError, Forbidden
from enlight_common.schemas.claims import LEASE_LOST


class OutOfScope(Forbidden):
    type = "out-of-scope"
    title = "The key is not for this"


class LeaseLost(Conflict):
    type = LEASE_LOST
    title = "The job is no longer yours"


class KeyReused(EnlightError):
    status = 422
    type = "idempotency-key-reused"
    title = "The Idempotency-Key belongs to another request"


class QuotaReached(EnlightError):
    status = 429
    type = "quota-reached"
    title = "A quota of the tenant is used up"


class RateLimited(EnlightError):
    status = 429
    type = "rate-limited"
    title = "Too many requests"
