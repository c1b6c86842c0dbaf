"""Chat templates: rendered as transformers renders them, inside limits, with nothing of the sandbox left open."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from openllm import chat
from openllm.chat import ChatRenderer, compile_template, render_chat
from openllm.tokenizer import Tokenizer, byte_tokenizer
from openllm_core.errors import InvalidRequest, UnsupportedFeature
from openllm_core.prompts import PromptTemplate

CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hi"}],
    [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": 'Is <b>"1 < 2"</b> & true?\n'},
        {"role": "assistant", "content": "Ja é 🙂 \u2028"},
        {"role": "user", "content": "Why?\n\n"},
    ],
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"ä": {}}}}}]
TEMPLATES = {
    "turns": "{% for m in messages %}<|{{ m.role }}|>\n{{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "whitespace control": "{%- for m in messages -%}\n   [{{- m.content -}}]\n{%- endfor %}\n  tail\n",
    "block lines": "  {% if messages %}\nfirst\n  {% endif %}\n{{ bos_token }}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content|length %}{% endfor %}{{ ns.n }}",
    "loop control": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{% if m.role == 'system' %}"
    "{% continue %}{% endif %}{{ m.content }}{% endfor %}",
    "tools": "{% if tools %}{{ tools | tojson(indent=2) }}{{ tools | tojson }}{% endif %}{{ messages | tojson }}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "macro": "{% macro say(m) %}({{ m.role }}: {{ m.content }}){% endmacro %}{% for m in messages %}{{ say(m) }}{% endfor %}",
    "no escaping": "{{ messages[0].content ~ '<&>' }}",
    "undefined": "{{ nothing }}{% if nothing is defined %}x{% endif %}{{ messages[0].get('name', 'nobody') }}",
    "date": "{{ strftime_now('%Y') }}",
}


def tokenizer_with(template: str | None) -> Tokenizer:
    """The byte tokenizer with another chat template."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def render(template: str, messages: list[dict[str, Any]], **variables: Any) -> str:
    """Render in this process."""
    return render_chat(tokenizer_with(template), messages, **variables)


@pytest.mark.parametrize("name", TEMPLATES)
def test_rendered_as_transformers_does(name: str) -> None:
    """Character by character what `apply_chat_template` gives, with and without tools and generation prompt."""
    from transformers.utils.chat_template_utils import render_jinja_template

    special = byte_tokenizer().special_tokens
    for messages in CONVERSATIONS:
        for add_generation_prompt in (True, False):
            for tools in (None, TOOLS):
                expected, _ = render_jinja_template(
                    [messages],
                    tools=tools,
                    chat_template=TEMPLATES[name],
                    add_generation_prompt=add_generation_prompt,
                    **special,
                )
                rendered = render(TEMPLATES[name], messages, add_generation_prompt=add_generation_prompt, tools=tools)
                assert rendered == expected[0]


def test_a_refusal_of_the_template_is_the_callers_to_read() -> None:
    """`raise_exception` becomes a 400 with its words and the field."""
    with pytest.raises(InvalidRequest) as refused:
        render("{{ raise_exception('Roles must alternate') }}", CONVERSATIONS[0])
    assert "Roles must alternate" in refused.value.message and refused.value.param == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{% if %}",
        "{{ messages[0].content + 1 }}",
        "{{ messages[9].content }}",
        "{{ 1 / 0 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ '%d' % 'x' }}",
        "{{ messages | tojson(indent=100000) }}",
    ],
)
def test_a_template_that_fails_is_a_refusal(source: str) -> None:
    """Whatever goes wrong inside a template is one InvalidRequest of one line."""
    with pytest.raises(InvalidRequest) as refused:
        render(source, CONVERSATIONS[0])
    assert "\n" not in refused.value.message and len(refused.value.message) <= 300


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ joiner.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__ }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
        "{{ messages|attr('__class__') }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{{ range(10**9) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_the_sandbox_is_shut(source: str) -> None:
    """No way out of the sandbox: each attempt is refused or renders nothing."""
    messages = [dict(CONVERSATIONS[0][0])]
    try:
        rendered = render(source, messages)
    except InvalidRequest:
        rendered = ""
    assert rendered.strip() == ""
    assert messages == CONVERSATIONS[0]


def test_the_size_of_a_prompt_is_bounded() -> None:
    """More than 4 MiB is refused, in one piece, in many, and in characters of several bytes."""
    for source in (
        "{% for i in range(5000) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ 'x' * 5000000 }}",
        "{% for i in range(90000) %}{{ '🙂' * 16 }}{% endfor %}",
    ):
        with pytest.raises(InvalidRequest, match="4194304 bytes"):
            render(source, [])
    assert len(render("{{ 'x' * 4000000 }}", [])) == 4_000_000


def test_a_prompt_that_grows_too_large_is_given_up_while_it_is_made() -> None:
    """The rest of it is not even computed."""
    made: list[int] = []

    def piece() -> str:
        made.append(1)
        return "x" * 1_000_000

    with pytest.raises(InvalidRequest, match="4194304 bytes"):
        render("{% for i in range(50) %}{{ piece() }}{% endfor %}", [], piece=piece)
    assert len(made) == 5


def test_a_model_without_a_template_says_so() -> None:
    """No template and no stand-in: a refusal that names the other route."""
    with pytest.raises(UnsupportedFeature) as refused:
        render_chat(tokenizer_with(None), CONVERSATIONS[0])
    assert refused.value.hint is not None and "/v1/completions" in refused.value.hint


# -- the worker -----------------------------------------------------------------------------------------------------------


async def test_the_worker_renders_the_same() -> None:
    """The worker process gives what rendering here gives, one conversation after the other or at once."""
    tokenizer = byte_tokenizer()
    renderer = ChatRenderer.of(tokenizer)
    try:
        rendered = await asyncio.gather(*(renderer.render(c) for c in CONVERSATIONS * 5))
        assert rendered == [render_chat(tokenizer, c) for c in CONVERSATIONS * 5]
        bare = await renderer.render(CONVERSATIONS[0], add_generation_prompt=False)
        assert bare == render_chat(tokenizer, CONVERSATIONS[0], add_generation_prompt=False)
        assert not renderer.add_special_tokens
    finally:
        await renderer.aclose()


async def test_an_endless_template_is_killed_and_the_loop_stays_alive() -> None:
    """A template without end is stopped at the limit; meanwhile the event loop turns; the next one gets a new worker."""
    source = "{% if messages|length > 1 %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}ok"
    renderer = ChatRenderer(source, {}, limit_s=1.0)
    try:
        await renderer.start()
        assert await renderer.render([{}]) == "ok"
        hung = asyncio.create_task(renderer.render([{}, {}]))
        longest = 0.0
        began = time.monotonic()
        while not hung.done():
            mark = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - mark)
        with pytest.raises(InvalidRequest, match="took longer than 1 s"):
            hung.result()
        assert time.monotonic() - began < 30  # the loops themselves would take minutes
        assert longest < 0.9  # a renderer that blocked the loop would do so for the whole second
        assert await renderer.render([{}]) == "ok"
    finally:
        await renderer.aclose()


KILLED = """
import asyncio, os, signal
from openllm.chat import ChatRenderer
async def main():
    source = "{% if messages|length > 1 %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}ok"
    renderer = ChatRenderer(source, {}, limit_s=60)
    await renderer.render([{}])
    print(renderer._worker.pid, flush=True)
    asyncio.create_task(renderer.render([{}, {}]))
    await asyncio.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


def test_an_endless_template_does_not_outlive_its_server() -> None:
    """kill -9 of the server while a template runs, which its worker would do for minutes: the worker is gone, too."""
    done = subprocess.run([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    worker = Path(f"/proc/{int(done.stdout)}/stat")
    deadline = time.monotonic() + 10
    while worker.exists() and worker.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 3000000000 }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{{ 'a'.center(3000000000) }}",
        "{{ '%3000000000d' % 1 }}",
    ],
)
async def test_memory_of_a_template_is_bounded(source: str) -> None:
    """A template that wants gigabytes is refused; the server's own memory never sees them."""
    renderer = ChatRenderer(source, {})
    try:
        with pytest.raises(InvalidRequest):
            await renderer.render([])
    finally:
        await renderer.aclose()


async def test_a_caller_that_leaves_does_not_mix_up_answers() -> None:
    """A cancelled call's answer is not handed to the next caller."""
    renderer = ChatRenderer("{{ messages[0].content }}", {})
    try:
        for number in range(20):
            left = asyncio.create_task(renderer.render([{"content": f"left {number}"}]))
            await asyncio.sleep(0.0005 * (number % 4))
            left.cancel()
            assert await renderer.render([{"content": str(number)}]) == str(number)
    finally:
        await renderer.aclose()


async def test_a_worker_that_was_killed_is_replaced() -> None:
    """Losing the worker costs at most one conversation."""
    renderer = ChatRenderer("ok", {})
    try:
        assert await renderer.render([]) == "ok"
        assert renderer._worker is not None
        renderer._worker.kill()
        await renderer._worker.wait()
        assert await renderer.render([]) == "ok"
    finally:
        await renderer.aclose()


async def test_the_worker_imports_nothing_from_the_folder_it_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cd that-model && openllm start .`: a package beside the weights is data and runs nowhere."""
    for name in ("orjson", "jinja2", "openllm"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("open('ran', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    renderer = ChatRenderer("ok", {})
    try:
        assert await renderer.render([]) == "ok"
    finally:
        await renderer.aclose()
    assert not (tmp_path / "ran").exists()


async def test_the_worker_sees_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only harmless variables of the environment reach the worker."""
    monkeypatch.setenv("OPENLLM_API_KEY", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    renderer = ChatRenderer("ok", {})
    try:
        await renderer.render([])
        assert renderer._worker is not None
        with open(f"/proc/{renderer._worker.pid}/environ", "rb") as environment:
            assert b"secret" not in environment.read()
    finally:
        await renderer.aclose()


async def test_a_family_prompt_stands_in_for_a_template() -> None:
    """A model without a template is asked turn by turn with its family's prompt, and gets the tokenizer's own tokens."""
    family = PromptTemplate("### Q: {instruction}\n### A: ")
    renderer = ChatRenderer.of(tokenizer_with(None), family)
    try:
        assert renderer.add_special_tokens
        assert await renderer.render(CONVERSATIONS[0]) == "### Q: Hi\n### A: "
        both = await renderer.render(
            [*CONVERSATIONS[0], {"role": "assistant", "content": "Yo"}, {"role": "user", "content": "{{ 1 }}"}]
        )
        assert both == "### Q: Hi\n### A: Yo\n\n### Q: {{ 1 }}\n### A: "
    finally:
        await renderer.aclose()
    needs_more = ChatRenderer.of(tokenizer_with(None), PromptTemplate("{context} {instruction}"))
    with pytest.raises(UnsupportedFeature):
        await needs_more.render(CONVERSATIONS[0])


def test_the_worker_imports_little() -> None:
    """The module a worker runs brings neither the engine nor tokenizers nor a web framework."""
    script = "import sys, openllm.chat; print([m for m in ('tokenizers', 'starlette', 'torch', 'openllm.engine') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_templates_are_compiled_in_the_sandbox() -> None:
    """The environment is the immutable sandbox, without jinja's text generators."""
    environment = compile_template("x").environment
    assert environment.sandboxed and "lipsum" not in environment.globals
    assert chat.MAX_PROMPT_BYTES == 4 * 1024 * 1024
