"""All four classes have the same names, arguments and defaults; the asynchronous ones are awaited."""

from __future__ import annotations

import inspect

import httpx
import pytest

from openllm_client import AsyncGrpcClient, AsyncHTTPClient, AsyncStream, GrpcClient, HTTPClient, Stream

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
PAIRS = [(HTTPClient, AsyncHTTPClient), (GrpcClient, AsyncGrpcClient), (Stream, AsyncStream)]
# What the two ways of travelling differ in: HTTP alone can be given another transport to send through.
TRAVEL = {"transport"}


def names(cls):
    dunder = {"__init__", *RENAMED, *RENAMED.values()}
    own = {name for base in cls.__mro__ if base is not object for name in vars(base)}
    return {name for name in dir(cls) if not name.startswith("_") or (name in dunder and name in own)}


def parameters(cls, name):
    found = inspect.signature(inspect.getattr_static(cls, name)).parameters.values()
    return [(p.name, p.kind, p.default) for p in found if p.name not in TRAVEL]


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
    for name in sorted(n for n in names(sync) if not n.startswith("__") and n != "openai"):
        ours, theirs = getattr(sync, name).__doc__, getattr(other, RENAMED.get(name, name)).__doc__
        assert ours, name
        assert ours == theirs, name


@pytest.mark.parametrize(("http", "grpc"), [(HTTPClient, GrpcClient), (AsyncHTTPClient, AsyncGrpcClient)])
def test_the_way_that_calls_travel_changes_no_name(http, grpc):
    """Over gRPC there is every name that HTTP has, with the same arguments and the same first line of documentation."""
    assert names(http) == names(grpc)
    for name in sorted(names(http)):
        ours, theirs = inspect.getattr_static(http, name), inspect.getattr_static(grpc, name)
        assert type(ours) is type(theirs), name
        if not isinstance(ours, property):
            assert parameters(http, name) == parameters(grpc, name), name
        if not name.startswith("__"):
            assert (ours.__doc__ or "").partition("\n")[0].startswith((theirs.__doc__ or "").partition("\n")[0][:24]), (
                name
            )


async def test_properties_are_awaited():
    """Each property that asks the server gives an awaitable on the asynchronous client, and the same value."""
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=METADATA))
    asking = [n for n in names(HTTPClient) if isinstance(inspect.getattr_static(HTTPClient, n), property)]
    asking.remove("address")
    asking.remove("openai")
    assert len(asking) == 8
    with HTTPClient("h", transport=transport) as sync:
        async with AsyncHTTPClient("h", transport=transport) as other:
            for name in asking:
                value = getattr(sync, name)
                awaited = await getattr(other, name)
                assert value == awaited, name
            assert sync.address == other.address
