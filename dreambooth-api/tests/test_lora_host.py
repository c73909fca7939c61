"""Adapters in the host's memory are loaded once, bounded in bytes, and gone when they are forgotten."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from dreambooth_api.inference.lora import AdapterWeights, HostAdapters
from dreambooth_api.inference.lora.layout import LayerGroup
from dreambooth_api.inference.lora.weights import lay_out

CPU = torch.device("cpu")
GROUPS = {"unet": [LayerGroup("layer", (32, 32), ("one",))]}
BYTES = 4 * 64 * 4


def adapter() -> AdapterWeights:
    extents = list(lay_out({("unet", 0): {0: 4}}, GROUPS))
    return AdapterWeights(torch.zeros(extents[0].size), extents, GROUPS)


def must_not_load() -> AdapterWeights:
    raise AssertionError("it is held")


def test_an_adapter_is_loaded_once() -> None:
    host = HostAdapters(10 * BYTES, CPU)
    first = host.get("one", adapter)
    assert host.get("one", must_not_load) is first
    assert (len(host), host.bytes, first.bytes) == (1, BYTES, BYTES)


def test_the_one_longest_not_used_leaves_at_the_bound() -> None:
    host = HostAdapters(2 * BYTES, CPU)
    first, second = host.get("one", adapter), host.get("two", adapter)
    assert host.get("one", must_not_load) is first
    host.get("three", adapter)
    assert host.bytes == 2 * BYTES
    assert host.get("one", must_not_load) is first
    assert host.get("two", adapter) is not second


def test_one_larger_than_the_bound_is_given_but_not_held() -> None:
    host = HostAdapters(BYTES - 1, CPU)
    assert host.get("one", adapter).bytes == BYTES
    assert (len(host), host.bytes) == (0, 0)


def test_those_who_ask_while_it_loads_wait_for_the_same() -> None:
    host = HostAdapters(10 * BYTES, CPU)
    started, go_on = threading.Event(), threading.Event()

    def slow() -> AdapterWeights:
        started.set()
        assert go_on.wait(30)
        return adapter()

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(host.get, "one", slow)
        assert started.wait(30)
        others = [pool.submit(host.get, "one", must_not_load) for _ in range(3)]
        assert host.get("two", adapter) is not None, "others are not held up"
        go_on.set()
        assert {id(other.result(30)) for other in others} == {id(first.result(30))}


def test_a_loading_that_fails_fails_for_those_who_waited_and_is_tried_again() -> None:
    host = HostAdapters(10 * BYTES, CPU)
    started, go_on = threading.Event(), threading.Event()

    def failing() -> AdapterWeights:
        started.set()
        assert go_on.wait(30)
        raise OSError("gone")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(host.get, "one", failing)
        assert started.wait(30)
        second = pool.submit(host.get, "one", failing)
        go_on.set()
        for one in (first, second):
            with pytest.raises(OSError, match="gone"):
                one.result(30)
    assert host.get("one", adapter).bytes == BYTES


def test_a_forgotten_adapter_is_loaded_anew() -> None:
    host = HostAdapters(10 * BYTES, CPU)
    first = host.get("one", adapter)
    host.forget("one")
    host.forget("never there")
    assert (len(host), host.bytes) == (0, 0)
    assert host.get("one", adapter) is not first


def test_one_forgotten_while_it_loads_is_given_but_not_held() -> None:
    host = HostAdapters(10 * BYTES, CPU)

    def forgotten() -> AdapterWeights:
        host.forget("one")
        return adapter()

    assert host.get("one", forgotten).bytes == BYTES
    assert len(host) == 0
