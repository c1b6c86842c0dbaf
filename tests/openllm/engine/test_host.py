"""The host's session: whatever a backend does wrong, the reason reaches the engine and nobody is left waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from openllm.backends.base import TokenGuide
from openllm.backends.registry import RegisteredBackend
from openllm.engine.channel import Answer, AskIds, AskText, AskVectors, Channel, CheckGuide
from openllm.engine.engine import Engine
from openllm.engine.host import HostSession
from openllm.engine.supervisor import launch_embedded
from openllm.tokenizer import byte_tokenizer
from openllm_core.errors import CorruptModel, EngineUnavailable, OpenLLMError
from openllm_core.options import EngineOptions

Load = Callable[..., Any]
original = RegisteredBackend.load


async def failure_of(monkeypatch: pytest.MonkeyPatch, load: Load) -> OpenLLMError:
    """What an embedded engine ends with when its backend loads like this."""
    monkeypatch.setattr(RegisteredBackend, "load", load)
    engine = Engine(EngineOptions(backend="echo"), byte_tokenizer(), launch=launch_embedded)
    await engine.start()
    try:
        with pytest.raises(OpenLLMError) as caught:
            await engine.wait_ready(5)
    finally:
        await engine.aclose()
    return caught.value


def _raising(error: BaseException) -> Load:
    def load(*_: Any) -> Any:
        raise error

    return load


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("boom"), "RuntimeError: boom"),
        (RuntimeError("Error(s) in loading Model:\n\tsize mismatch for w"), "loading Model: size mismatch for w"),
        (SystemExit("left"), "SystemExit"),
        (StopIteration("ended"), "StopIteration"),
        (RuntimeError("no file caf\udce9"), "no file caf"),
        (ExceptionGroup("several", [ValueError("the inner one")]), "ValueError: the inner one"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
async def test_any_failed_load_names_its_reason(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, message: str
) -> None:
    """An exception of any kind, with any text, ends the wait at once; the root's own words are in the first line."""
    assert message in (await failure_of(monkeypatch, _raising(error))).message


async def test_an_embedded_failure_carries_the_exception_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process the original exception, with its traceback, is the cause of the error the caller gets."""
    thrown = RuntimeError("boom")
    failure = await failure_of(monkeypatch, _raising(thrown))
    assert failure.__cause__ is thrown
    assert thrown.__traceback__ is not None


async def test_an_error_of_ours_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Class, message and hint survive the border; a path that is no text is shown with escapes."""
    failure = await failure_of(monkeypatch, _raising(CorruptModel("caf\udce9 is cut off.", hint="Fetch it again.")))
    assert type(failure) is CorruptModel
    assert (failure.message, failure.hint) == ("caf\\udce9 is cut off.", "Fetch it again.")


async def test_a_backend_that_breaks_on_a_frame_fails_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in `submit` is told at once; nobody waits for tokens that never come."""

    def load(*arguments: Any) -> Any:
        backend = original(*arguments)

        def submit(request: Any) -> None:
            raise RuntimeError("submit broke")

        monkeypatch.setattr(backend, "submit", submit)
        return backend

    assert "RuntimeError: submit broke" in (await failure_of(monkeypatch, load)).message


class Heard:
    """A channel that keeps what is sent through it."""

    def __init__(self) -> None:
        self.frames: list[Any] = []

    def send(self, frame: Any) -> None:
        """Keep it."""
        self.frames.append(frame)


@pytest.mark.parametrize(
    "question",
    [AskVectors(7, [[1]]), AskIds(7, "hi", True), AskText(7, [1]), CheckGuide(7, TokenGuide("choice", ["a"]))],
    ids=lambda question: type(question).__name__,
)
async def test_a_host_without_a_model_answers_every_question(question: Any) -> None:
    """It was meant for the host before: whoever asked hears that, and waits no longer."""
    session, heard = HostSession(lambda status: None), Heard()
    session.channel = cast("Channel", heard)
    session.on_frame(question)
    await asyncio.gather(*session._side_tasks)
    (answer,) = heard.frames
    assert isinstance(answer, Answer) and answer.number == 7
    assert answer.error is not None and answer.error["code"] == EngineUnavailable.code
