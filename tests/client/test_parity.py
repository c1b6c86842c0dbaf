"""The twins have the same names, arguments and defaults; the asynchronous one is awaited."""

from __future__ import annotations

import inspect

import httpx
import pytest

from openllm_client import AsyncHTTPClient, AsyncStream, HTTPClient, Stream

from .test_http import METADATA

RENAMED = {
    "close": "aclose",
    "__enter__": "__aenter__",
    "__exit__": "__aexit__",
    "__iter__": "__aiter__",
    "__next__": "__anext__",
}
# Return at once on both sides: the stream they give is iterated.
NOT_AWAITED = {"generate_stream", "__init__", "__aiter__"}
PAIRS = [(HTTPClient, AsyncHTTPClient), (Stream, AsyncStream)]


def names(cls):
    dunder = {"__init__", *RENAMED, *RENAMED.values()}
    return {name for name in dir(cls) if not name.startswith("_") or (name in dunder and name in vars(cls))}


@pytest.mark.parametrize(("sync", "other"), PAIRS)
def test_names_are_the_same(sync, other):
    """Whoever knows one knows the other."""
    assert {RENAMED.get(name, name) for name in names(sync)} == names(other)


@pytest.mark.parametrize(("sync", "other"), PAIRS)
def test_arguments_are_the_same(sync, other):
    """Names, kinds, defaults and order of all arguments agree; only the asynchronous methods are coroutines."""
    for name in sorted(names(sync)):
        twin = RENAMED.get(name, name)
        ours, theirs = inspect.getattr_static(sync, name), inspect.getattr_static(other, twin)
        assert type(ours) is type(theirs), name
        if isinstance(ours, property):
            continue
        mine, yours = inspect.signature(ours).parameters, inspect.signature(theirs).parameters
        assert [(p.name, p.kind, p.default) for p in mine.values()] == [
            (p.name, p.kind, p.default) for p in yours.values()
        ], name
        assert not inspect.iscoroutinefunction(ours), name
        assert inspect.iscoroutinefunction(theirs) is (twin not in NOT_AWAITED), name


@pytest.mark.parametrize(("sync", "other"), PAIRS)
def test_every_public_member_is_documented(sync, other):
    """Both carry the same documentation."""
    for name in sorted(n for n in names(sync) if not n.startswith("__")):
        ours, theirs = getattr(sync, name).__doc__, getattr(other, RENAMED.get(name, name)).__doc__
        assert ours, name
        assert ours == theirs, name


async def test_properties_are_awaited():
    """Each property that asks the server gives an awaitable on the asynchronous client, and the same value."""
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=METADATA))
    asking = [n for n in names(HTTPClient) if isinstance(inspect.getattr_static(HTTPClient, n), property)]
    asking.remove("address")
    assert len(asking) == 8
    with HTTPClient("h", transport=transport) as sync:
        async with AsyncHTTPClient("h", transport=transport) as other:
            for name in asking:
                value = getattr(sync, name)
                awaited = await getattr(other, name)
                assert value == awaited, name
            assert sync.address == other.address
