"""Chat templates: a conversation becomes the prompt the model was trained on, in a sandbox with limits.

`render_chat` renders in this process; `ChatRenderer` renders in a small worker process that is killed when a template
takes too long or too much memory, so that a hostile template of a model cannot stop the server. Nothing here knows of
HTTP, engines or tokens; a template never comes from a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

import orjson
from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from openllm_core.errors import InvalidRequest, UnsupportedFeature

if TYPE_CHECKING:
    from jinja2 import Template

    from openllm.tokenizer import Tokenizer
    from openllm_core.prompts import PromptTemplate

Message = dict[str, Any]

MAX_PROMPT_BYTES = 4 * 1024 * 1024
MAX_RENDER_S = 2.0
MAX_WORKER_BYTES = 1024 * 1024 * 1024  # address space of the worker process
MAX_FRAME_BYTES = 64 * 1024 * 1024
WORKER_ENVIRONMENT = (
    "PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "HOME",
)

TURN_BY_TURN = (
    "{% for message in messages %}{% if message.role == 'user' %}{{ before + message.content + after }}"
    "{% else %}{{ message.content + '\n\n' }}{% endif %}{% endfor %}"
)
INSTRUCTION_MARK = "\x00instruction\x00"


# -- rendering --------------------------------------------------------------------------------------------------------


def render_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[dict[str, Any]] | None = None,
    **kwargs: Any,
) -> str:
    """Render a conversation with the tokenizer's own template, in this process.

    Args:
        messages: `{"role": …, "content": …}`, oldest first.
        add_generation_prompt: end with the opening of the assistant's turn.
        tools: JSON schemas of functions, for templates that know them.
        kwargs: further variables of the template (`enable_thinking`, …).

    Raises:
        UnsupportedFeature: the model has no chat template.
        InvalidRequest: the template refuses the conversation, or goes past the size or time limit.
    """
    if tokenizer.chat_template is None:
        raise no_template()
    compiled = compile_template(tokenizer.chat_template)
    variables = kwargs | {"add_generation_prompt": add_generation_prompt, "tools": tools or None}
    return _render(compiled, messages, dict(tokenizer.special_tokens) | variables)


def no_template() -> UnsupportedFeature:
    """The refusal where a model has no chat template."""
    return UnsupportedFeature(
        "This model has no chat template.", hint="Use /v1/completions with a prompt of your own.", param="messages"
    )


def compile_template(source: str) -> Template:
    """Compile a template in the sandbox.

    Raises:
        InvalidRequest: its syntax is wrong.
    """
    try:
        return _environment().from_string(source)
    except (TemplateError, RecursionError) as error:
        raise _refused(f"The model's chat template cannot be read: {error}") from error


def _render(template: Template, messages: Sequence[Message], variables: Mapping[str, Any]) -> str:
    deadline = time.monotonic() + MAX_RENDER_S
    parts: list[str] = []
    size = 0
    try:
        for part in template.generate(**variables, messages=list(messages)):
            size += len(part)
            if size > MAX_PROMPT_BYTES:
                raise _refused(f"The chat template made a prompt of more than {MAX_PROMPT_BYTES} bytes.")
            if time.monotonic() > deadline:
                raise _refused(f"The chat template took longer than {MAX_RENDER_S:g} s.")
            parts.append(part)
    except InvalidRequest:
        raise
    except TemplateError as error:
        raise _refused(f"The chat template refuses this conversation: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise _refused(f"The chat template cannot render this conversation: {type(error).__name__}: {error}") from error
    prompt = "".join(parts)
    if len(prompt) > MAX_PROMPT_BYTES // 4 and len(prompt.encode()) > MAX_PROMPT_BYTES:
        raise _refused(f"The chat template made a prompt of more than {MAX_PROMPT_BYTES} bytes.")
    return prompt


def _refused(message: str) -> InvalidRequest:
    return InvalidRequest(re.sub(r"\s+", " ", message)[:300], param="messages")


class GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks the assistant's words for training: rendered as they are."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 reads it from the class

    def parse(self, parser: Parser) -> nodes.Node:
        """The body between the tags."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    filters = cast("dict[str, Callable[..., Any]]", environment.filters)
    names = cast("dict[str, Any]", environment.globals)
    filters["tojson"] = _to_json
    names["raise_exception"] = _raise_exception
    names["strftime_now"] = _strftime_now
    for risky in ("lipsum", "cycler", "joiner"):
        names.pop(risky, None)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON text for a prompt: no HTML escapes, unlike jinja's own."""
    if indent is not None and not 0 <= indent <= 16:
        raise ValueError("indent must be 0..16")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(str(message))


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


# -- the worker process -----------------------------------------------------------------------------------------------


class ChatRenderer:
    """Renders one template in a worker process of its own.

    One conversation at a time, each within `limit_s` and 1 GiB; a worker that goes past either is killed and the next
    conversation gets a fresh one. The worker sees no secrets of the environment and ends with this process.

    Args:
        template: Jinja source; None makes every call a refusal.
        variables: what the template finds besides the conversation: `bos_token`, `eos_token`, …
        add_special_tokens: see the attribute.

    Attributes:
        add_special_tokens: whether the tokenizer must add its own around the prompt; a model's own template has them.
    """

    def __init__(
        self,
        template: str | None,
        variables: Mapping[str, Any],
        *,
        add_special_tokens: bool = False,
        limit_s: float = MAX_RENDER_S,
    ) -> None:
        self.add_special_tokens = add_special_tokens
        self._template = template
        self._variables = dict(variables)
        self._limit_s = limit_s
        self._lock = asyncio.Lock()
        self._worker: asyncio.subprocess.Process | None = None
        self._ending: set[asyncio.Future[None]] = set()

    @classmethod
    def of(cls, tokenizer: Tokenizer, family: PromptTemplate | None = None) -> ChatRenderer:
        """For a tokenizer's own template; where it has none, for the family's prompt template, turn by turn."""
        if tokenizer.chat_template is not None or family is None or family.required:
            return cls(tokenizer.chat_template, tokenizer.special_tokens)
        before, _, after = family.render(INSTRUCTION_MARK).partition(INSTRUCTION_MARK)
        return cls(TURN_BY_TURN, {"before": before, "after": after}, add_special_tokens=True)

    async def start(self) -> None:
        """Start the worker ahead of the first conversation, which would otherwise wait for it."""
        if self._template is not None:
            async with self._lock:
                await self._ensure()

    async def render(self, messages: Sequence[Message], **variables: Any) -> str:
        """The prompt of a conversation, with the assistant's turn opened unless `add_generation_prompt=False`.

        Raises:
            UnsupportedFeature: the model has no chat template.
            InvalidRequest: the template refuses the conversation, or went past a limit.
        """
        if self._template is None:
            raise no_template()
        request = orjson.dumps({"messages": messages, "variables": {"add_generation_prompt": True} | variables})
        # Shielded: a caller that leaves must not leave half an exchange in the pipe.
        exchange = asyncio.ensure_future(self._exchange(request))
        exchange.add_done_callback(_looked_at)
        return await asyncio.shield(exchange)

    async def aclose(self) -> None:
        """End the worker."""
        self._kill()
        await asyncio.gather(*self._ending)

    async def _exchange(self, request: bytes) -> str:
        async with self._lock:
            worker = await self._ensure()
            try:
                async with asyncio.timeout(self._limit_s):
                    reply = orjson.loads(await _ask(worker, request))
            except TimeoutError:
                self._kill()
                raise _refused(f"The chat template took longer than {self._limit_s:g} s.") from None
            except (OSError, asyncio.IncompleteReadError, orjson.JSONDecodeError):
                self._kill()
                raise _refused("The chat template ended its worker: too much memory, or a defect.") from None
        if "prompt" in reply:
            return str(reply["prompt"])
        raise InvalidRequest(str(reply["error"]), param="messages")

    async def _ensure(self) -> asyncio.subprocess.Process:
        if self._worker is not None and self._worker.returncode is None:
            return self._worker
        self._kill()
        self._worker = worker = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "openllm.chat",
            str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={name: os.environ[name] for name in WORKER_ENVIRONMENT if name in os.environ},
        )
        assert worker.stdin is not None
        worker.stdin.write(_framed(orjson.dumps({"template": self._template, "variables": self._variables})))
        return worker

    def _kill(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            ending = asyncio.ensure_future(_end(worker))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)


async def _end(worker: asyncio.subprocess.Process) -> None:
    """Kill a worker and wait until nothing of it is left."""
    if worker.returncode is None:
        worker.kill()
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.close()
    with contextlib.suppress(OSError):
        await worker.stdin.wait_closed()
    await worker.stdout.read()
    await worker.wait()


def _looked_at(exchange: asyncio.Future[str]) -> None:
    """An exchange whose caller has left may fail unheard."""
    if not exchange.cancelled():
        exchange.exception()


async def _ask(worker: asyncio.subprocess.Process, request: bytes) -> bytes:
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(_framed(request))
    await worker.stdin.drain()
    size = int.from_bytes(await worker.stdout.readexactly(4), "big")
    if size > MAX_FRAME_BYTES:
        raise OSError("the worker's answer is too long")
    return await worker.stdout.readexactly(size)


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _read_frame(stream: IO[bytes]) -> Any:
    head = stream.read(4)
    return orjson.loads(stream.read(int.from_bytes(head, "big"))) if len(head) == 4 else None


def work() -> None:
    """The worker: first frame the template, then one conversation in, one prompt or error out, until the pipe ends."""
    import resource
    import signal

    from openllm.lifetime import die_with_parent

    die_with_parent(int(sys.argv[1]))  # the end of the pipe is not read while a template runs
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle; the pipe's end is ours
    resource.setrlimit(resource.RLIMIT_AS, (MAX_WORKER_BYTES, MAX_WORKER_BYTES))
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    first = _read_frame(source)
    compiled: Template | InvalidRequest
    try:
        compiled = compile_template(first["template"])
    except InvalidRequest as error:
        compiled = error
    while (request := _read_frame(source)) is not None:
        try:
            if isinstance(compiled, InvalidRequest):
                raise compiled
            reply = {"prompt": _render(compiled, request["messages"], first["variables"] | request["variables"])}
        except InvalidRequest as error:
            reply = {"error": error.message}
        sink.write(_framed(orjson.dumps(reply)))
        sink.flush()


if __name__ == "__main__":
    work()
