"""The statuses of a job and which may follow which."""

from __future__ import annotations

from typing import Literal

Status = Literal["queued", "processing", "succeeded", "failed", "canceled"]
Kind = Literal["training", "generation", "background_removal", "upscale", "chain"]

QUEUED: Status = "queued"
PROCESSING: Status = "processing"
SUCCEEDED: Status = "succeeded"
FAILED: Status = "failed"
CANCELED: Status = "canceled"

TERMINAL: frozenset[Status] = frozenset({SUCCEEDED, FAILED, CANCELED})
#: Claimed over HTTP by workers beside GPUs; the rest is forwarded to image services.
GPU_KINDS: frozenset[Kind] = frozenset({"training", "generation"})
FORWARDED_KINDS: frozenset[Kind] = frozenset({"background_removal", "upscale"})

#: Every change of status is a compare-and-set from one of these.
FOLLOWS: dict[Status, frozenset[Status]] = {
    QUEUED: frozenset({PROCESSING}),  # given back, or its lease ran out
    PROCESSING: frozenset({QUEUED}),
    SUCCEEDED: frozenset({PROCESSING}),
    FAILED: frozenset({QUEUED, PROCESSING}),  # queued: a chain's step that can no longer be made
    CANCELED: frozenset({QUEUED, PROCESSING}),
}
