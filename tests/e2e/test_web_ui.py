"""The web UI in a real Chromium, with the default model behind it, as a newcomer meets it after `openllm start`."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from tests.ui.chromium import open_browser
from tests.ui.pages import until, web_ui

from .conftest import ServerProcess, openllm_start

pytestmark = pytest.mark.timeout(420)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the module."""
    with open_browser() as opened:
        yield opened


def test_the_default_model_answers_in_the_browser_and_stops_when_told(browser: Browser, server: ServerProcess) -> None:
    """A right answer streams in with its figures; Stop ends a long one on the server; embeddings and scores work."""
    with web_ui(browser) as ui:
        ui.open(server.url)
        ui.named("button", "Parameters", exact=True).click()
        ui.named("textbox", "Temperature").fill("0")
        ui.say("What is the capital of France?")
        expect(ui.answers).to_contain_text("Paris", timeout=60_000)
        ui.whole()
        expect(ui.answers.locator(".figures")).to_contain_text("tokens/s")
        ui.say("Tell a very long story about the sea, as long as you can.")
        until(ui.page, lambda: server.metric("openllm_requests_running") == 1, 60_000)
        expect(ui.answers.nth(1).locator(".markdown")).not_to_be_empty(timeout=60_000)
        ui.named("button", "Stop").click()
        expect(ui.answers.nth(1)).to_contain_text("Stopped here.")
        until(ui.page, lambda: server.metric("openllm_requests_running") == 0, 60_000)
        ui.named("tab", "Playground").click()
        ui.named("tab", "Log-probabilities").click()
        ui.named("button", "Score").click()
        expect(ui.page.locator(".token", has_text="Paris")).to_be_visible(timeout=60_000)
        ui.named("tab", "Embeddings").click()
        ui.named("button", "Embed").click()
        expect(ui.page.locator(".result figcaption")).to_contain_text("vectors of", timeout=60_000)
        alike = [float(text) for text in ui.page.locator(".result tbody td").all_inner_texts()]
        assert alike[1] > alike[2], alike  # the cat is more like the kitten than like the train


def test_an_engine_that_dies_is_told_and_the_next_answer_works(browser: Browser, tmp_path: Path) -> None:
    """The engine's process is killed in the middle of an answer: what came stays, with the reason; it can be tried again."""
    reply = "--engine-arg=reply=" + "word " * 300
    with (
        openllm_start(tmp_path / "log.txt", "--backend", "echo", reply, "--engine-arg=step_s=0.01") as started,
        web_ui(browser) as ui,
    ):
        ui.open(started.url)
        ui.say("Talk")
        expect(ui.answers).to_contain_text("word word")
        os.kill(started.host_pid(), signal.SIGKILL)
        ended = ui.answers.locator(".ended")
        expect(ended).to_contain_text("The answer was cut here.")
        expect(ended).to_contain_text(re.compile("engine", re.IGNORECASE))
        expect(ui.answers).to_contain_text("word word")
        ui.named("button", "Try again").click(timeout=60_000)
        expect(ui.answers).to_contain_text("word word", timeout=60_000)
        expect(ended).to_have_count(0)
        ui.field.press("Escape")
        expect(ui.answers).to_contain_text("Stopped here.")
