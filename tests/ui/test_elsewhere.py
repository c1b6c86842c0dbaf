"""The page and a server that it did not come from: another origin, a server that is down, and what a link may not do."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from .chromium import open_browser
from .pages import Running, server, web_ui


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the module."""
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def here() -> Iterator[Running]:
    """The server that the pages come from."""
    with server(reply="From here.") as running:
        yield running


def test_another_origin_works_with_cors_once_it_was_agreed_to(browser: Browser, here: Running) -> None:
    """A link that names another server is asked about first; then chat and key go there, and there alone."""
    with server(reply="From afar.", options={"cors": ("*",), "api_key": ("k",)}) as there, web_ui(browser) as ui:
        asked: list[str] = []
        ui.page.on("request", lambda request: asked.append(request.url))
        ui.open(f"{here.url}/?endpoint={there.url}", ready=False)
        expect(ui.page.get_by_role("heading")).to_have_text("Use another server?")
        assert not [url for url in asked if url.startswith(there.url)]
        ui.named("button", f"Yes, use {there.url}").click()
        ui.named("dialog", "API key").get_by_label("API key").fill("k")
        ui.page.keyboard.press("Enter")
        expect(ui.named("button", re.compile("Server .*: ready"))).to_be_visible()
        ui.say("Hi")
        expect(ui.answers).to_contain_text("From afar.")
        assert not [url for url in asked if url.startswith(f"{here.url}/v1")]
        ui.page.goto(here.url)
        ui.say("Hi")
        expect(ui.answers.last).to_contain_text("From here.")
        ui.named("button", re.compile("Server .*")).click()
        ui.named("textbox", "Address").fill(there.url)
        ui.named("button", "Use this server").click()
        expect(ui.page.locator(".server .name")).to_have_text(there.url.removeprefix("http://"))


def test_the_agreement_can_be_refused(browser: Browser, here: Running) -> None:
    """Nothing is asked of the other server, and the page goes back to its own."""
    with web_ui(browser) as ui:
        ui.open(f"{here.url}/?endpoint=http://192.0.2.1", ready=False)
        ui.named("button", "No, this page's own server").click()
        ui.say("Hi")
        expect(ui.answers).to_contain_text("From here.")


def test_without_cors_the_page_says_what_is_missing(browser: Browser, here: Running) -> None:
    """A server that does not allow other origins: the page names --cors."""
    with server(reply="x") as there, web_ui(browser, noise="CORS policy") as ui:
        ui.open(f"{here.url}/?endpoint={there.url}", ready=False)
        ui.named("button", f"Yes, use {there.url}").click()
        expect(ui.notice).to_contain_text("--cors")


def test_a_server_that_is_down_when_the_page_opens(browser: Browser, here: Running) -> None:
    """The page says so, keeps what is written, and goes on by itself when the server is there."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        with web_ui(browser) as ui:
            ui.open(f"{here.url}/?endpoint={address}", ready=False)
            ui.named("button", f"Yes, use {address}").click()
            expect(ui.notice).to_contain_text(f"Nothing answers at {address}.")
            ui.field.fill("Kept")
            expect(ui.named("button", "Send")).to_be_disabled()
            held.close()
            with server(reply="Up.", options={"cors": ("*",)}, port=port):
                expect(ui.notice).to_have_count(0)
                ui.field.press("Enter")
                expect(ui.answers).to_contain_text("Up.")
