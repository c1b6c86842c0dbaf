"""A request that is cancelled, or whose client leaves, at any of its awaits leaves nothing behind: on every route."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import attrs
import orjson
import pytest
import pytest_asyncio
from starlette.types import Message
from tests.contract.test_every_route import routes
from tests.enumerate.requests import BODIES, CHANGING, MESSAGES, constant, taken
from tests.enumerate.site import Site, answered, scope_of, site
from tests.enumerate.stepping import Watch, start, watching

from openllm.rpc.servicer import Servicer
from openllm_core.options import ServerOptions

pytestmark = pytest.mark.asyncio(loop_scope="module")

MOST_AWAITS = 2000
SETTLED_S = 20.0
WAYS = sorted(
    {*BODIES, *(route for route in routes() if not any(way.split(" ")[:2] == route.split(" ") for way in BODIES))}
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A site, warm: each worker that is started on first use is there."""
    async with site(tmp_path_factory.mktemp("store")) as made:
        for way in BODIES:
            await made.ask(*taken(way))
        await restored(made)
        yield made


async def restored(made: Site) -> None:
    """What is served is what it was: the adapter is loaded, and the base is the default."""
    await made.ask("POST", "/v1/adapters/load", b'{"adapter_name":"poet"}')
    await made.ask("POST", "/v1/adapters", b'{"adapter_name":"base"}')


@attrs.define
class Caller:
    """One request to the application, whose client may leave at any moment."""

    made: Site
    way: str
    body: bytes | None = None
    sent: list[Message] = attrs.field(factory=list)
    gone: asyncio.Event = attrs.field(factory=asyncio.Event)

    async def run(self) -> None:
        """Ask."""
        method, path, body = taken(self.way)
        body = body if self.body is None else self.body
        parts = [body]

        async def receive() -> Message:
            await asyncio.sleep(0)
            if parts:
                return {"type": "http.request", "body": parts.pop(), "more_body": False}
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            await asyncio.sleep(0)
            self.sent.append(message)

        await self.made.served.composed.app(scope_of(method, path, "application/json", len(body)), receive, send)
        self.gone.set()

    @property
    def whole(self) -> bool:
        """Whether the answer was sent to its end."""
        return bool(self.sent) and not self.sent[-1].get("more_body", self.sent[-1]["type"].endswith("start"))


def is_of_supervisor(task: asyncio.Task[Any]) -> bool:
    """Whether a task is the wait between two questions to the host, which is a new one each second."""
    return getattr(task.get_coro(), "__qualname__", "") == "Event.wait"


def residue(made: Site, before: set[asyncio.Task[Any]]) -> str:
    """What a request left in the engine and in the loop; empty when nothing."""
    engine: Any = made.served.composed.engine
    tasks = {task for task in asyncio.all_tasks() if not task.done() and not is_of_supervisor(task)} - before
    held = {
        "sequences": len(engine.dispatcher.sequences),
        "places": engine.dispatcher.load,
        "in host": engine.dispatcher.in_host,
        "embeddings": engine.embeddings.waiting,
        "tasks": sorted(str(task.get_coro()) for task in tasks),
    }
    return ", ".join(f"{name}: {value}" for name, value in held.items() if value)


async def settled(made: Site, before: set[asyncio.Task[Any]]) -> None:
    """Wait until nothing is left."""
    try:
        async with asyncio.timeout(SETTLED_S):
            while residue(made, before):
                await asyncio.sleep(0.001)
    except TimeoutError:
        pytest.fail(f"left behind: {residue(made, before)}")


async def every_await(
    made: Site,
    ask: Callable[[Watch], tuple[Coroutine[Any, Any, None], Callable[[asyncio.Task[None]], object]]],
    after: Callable[[asyncio.Task[None], int], Coroutine[Any, Any, None]],
    most: int | None = None,
) -> int:
    """Run a request once for each of its awaits, acting there.

    Args:
        ask: makes the request and what is done to its task at the await.
        after: judges how it ended.
        most: awaits to stand at, where the request has no end.

    Returns:
        At how many awaits it stood.
    """
    problems: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(
        lambda _, context: problems.append(f"{context['message']}: {context.get('exception')!r}")
    )
    before = set(asyncio.all_tasks())
    for at in range(1, (most or MOST_AWAITS) + 1):
        watch = Watch(at, lambda: None)
        coro, act = ask(watch)
        with watching():
            task = start(coro, watch)
            watch.act = lambda task=task, act=act: act(task)
            await asyncio.wait((task,), timeout=SETTLED_S)
        assert task.done(), f"await {at}: it never ended"
        await settled(made, before)
        await after(task, at)
        gc.collect(0)
        assert problems == [], f"await {at}: {problems}"
        if not watch.reached:
            return at - 1
    assert most, "more awaits than any request should have"
    return most


@pytest.mark.parametrize("action", ["cancelled", "left"])
@pytest.mark.parametrize("way", WAYS)
async def test_http(here: Site, way: str, action: str, record_property: Callable[[str, object], None]):
    """Nothing runs on, no place is taken, no task is left, and the next request is answered as if nothing had been."""
    await restored(here)
    expected = constant((await here.ask(*taken(way))).body)
    await restored(here)
    callers: list[Caller] = []

    def ask(watch: Watch) -> Any:
        caller = Caller(here, way)
        callers.append(caller)
        return caller.run(), lambda task: task.cancel() if action == "cancelled" else caller.gone.set()

    async def after(task: asyncio.Task[None], at: int) -> None:
        caller = callers.pop()
        if task.cancelled():
            assert action == "cancelled", f"await {at}: the task was cancelled by nobody"
        else:
            assert task.exception() is None, f"await {at}: {task.exception()!r}"
            if caller.whole:
                assert answered(caller.sent).status == 200, f"await {at}: {answered(caller.sent)}"
        await restored(here)
        if way not in CHANGING:
            assert constant((await here.ask(*taken(way))).body) == expected, f"after await {at}"
        await restored(here)

    stood = await every_await(here, ask, after)
    record_property("awaits", stood)
    assert stood >= 1


# -- requests that would go on for minutes ----------------------------------------------------------------------------

ENDLESS = 200_000
ENDLESS_WAYS = [
    way for way in BODIES if "prompt" in BODIES[way] or "messages" in BODIES[way] or "inputs" in BODIES[way]
]
ENDLESS_METHODS = ("Generate", "GenerateStream", "Chat", "ChatStream")
FIRST_AWAITS = 32


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def slow(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A site whose answers take minutes: what is not aborted is seen to run on."""
    async with site(tmp_path_factory.mktemp("slow"), step_s=0.001, max_model_len=10 * ENDLESS, call=None) as made:
        await made.ask(*taken("POST /v1/chat/completions"))
        yield made


def endless(way: str) -> bytes:
    """The body of a way, for an answer without end."""
    body = dict(BODIES[way])
    more = {"max_new_tokens": ENDLESS, "ignore_eos": True}
    for name in ("llm_config", "parameters"):
        if name in body:
            return orjson.dumps(body | {name: more})
    kept = {name: value for name, value in body.items() if name not in ("tools", "tool_choice", "guided_choice")}
    return orjson.dumps(kept | {"max_tokens": ENDLESS, "ignore_eos": True})


def cancel_twice(task: asyncio.Task[Any]) -> None:
    """The client leaves, and the server is told to end at once."""
    loop = asyncio.get_running_loop()
    task.cancel()
    loop.call_soon(loop.call_soon, task.cancel)


@pytest.mark.parametrize("action", ["cancelled", "cancelled twice", "left"])
@pytest.mark.parametrize("way", ENDLESS_WAYS)
async def test_endless_http(slow: Site, way: str, action: str, record_property: Callable[[str, object], None]):
    """An answer that nobody waits for any more is not computed to its end: the engine lets go of it at once."""

    def ask(watch: Watch) -> Any:
        caller = Caller(slow, way, body=endless(way))
        acts = {"cancelled": asyncio.Task.cancel, "cancelled twice": cancel_twice}
        return caller.run(), acts.get(action, lambda task: caller.gone.set())

    async def after(task: asyncio.Task[None], at: int) -> None:
        assert task.cancelled() == (action != "left"), f"await {at}"

    record_property("awaits", FIRST_AWAITS)
    assert await every_await(slow, ask, after, most=FIRST_AWAITS) == FIRST_AWAITS


@pytest.mark.parametrize("method", ENDLESS_METHODS)
async def test_endless_grpc(slow: Site, method: str, record_property: Callable[[str, object], None]):
    """The same of the methods that generate."""
    servicer = Servicer(slow.served.composed.service, ServerOptions())
    message = type(MESSAGES[method])()
    message.CopyFrom(MESSAGES[method])
    message.sampling.max_tokens = ENDLESS
    message.sampling.ignore_eos = True

    def ask(watch: Watch) -> Any:
        return getattr(servicer, method)(message, Context()), lambda task: task.cancel()

    async def after(task: asyncio.Task[None], at: int) -> None:
        assert task.cancelled(), f"await {at}"

    record_property("awaits", FIRST_AWAITS)
    assert await every_await(slow, ask, after, most=FIRST_AWAITS) == FIRST_AWAITS


class Context:
    """What a method of a gRPC service needs of its call."""

    def __init__(self) -> None:
        self.written: list[Any] = []

    async def write(self, message: Any) -> None:
        """Send one message of a stream."""
        await asyncio.sleep(0)
        self.written.append(message)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """No headers."""
        return ()


@pytest.mark.parametrize("method", MESSAGES)
async def test_grpc(here: Site, method: str, record_property: Callable[[str, object], None]):
    """The same of each method of the gRPC service, whose calls are cancelled wherever they wait."""
    servicer = Servicer(here.served.composed.service, ServerOptions(allow_adapter_load=True))
    call = getattr(servicer, method)

    async def asked(context: Context) -> None:
        await asyncio.sleep(0)
        answer = await call(MESSAGES[method], context)
        if answer is not None:
            context.written.append(answer)

    async def told() -> list[str]:
        context = Context()
        await asked(context)
        return [constant(str(message).encode()).decode() for message in context.written]

    await restored(here)
    expected = [line for line in await told() if "created" not in line]
    await restored(here)

    def ask(watch: Watch) -> Any:
        return asked(Context()), lambda task: task.cancel()

    async def after(task: asyncio.Task[None], at: int) -> None:
        assert task.cancelled() or task.exception() is None, f"await {at}: {task.exception()!r}"
        await restored(here)
        assert [line for line in await told() if "created" not in line] == expected, f"after await {at}"
        await restored(here)

    stood = await every_await(here, ask, after)
    record_property("awaits", stood)
    assert stood >= 1


async def test_every_body_has_a_request():
    """A route that takes a body has one to be tried with, or fails here; the others need none."""
    assert [way for way in WAYS if way.startswith("POST ") and way not in BODIES] == []


async def test_every_method_has_a_request():
    """A method that is new in the service is enumerated as well, or fails here."""
    methods = {name for name in vars(Servicer) if name[0].isupper()}
    assert methods == set(MESSAGES)
