"""The web UI in a page of a browser, and servers for it, as the tests drive them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import attrs
import httpx
from anyio.from_thread import start_blocking_portal
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect
from tests.openllm.server.serving import Served, listening, serving

from .chromium import PATIENCE_MS

WIDE = {"width": 1280, "height": 800}
EXPECTED = re.compile(r"Failed to load resource|ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|net::ERR_ABORTED")
"""What a browser itself writes to its console about an answer that is an error, or none."""


@attrs.frozen
class Running:
    """A server behind a port of this machine, in this process."""

    url: str
    served: Served

    def metric(self, name: str) -> float:
        """Sum of the samples of one metric."""
        lines = httpx.get(f"{self.url}/metrics", headers=self.key).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + " ", name + "{")))

    @property
    def key(self) -> dict[str, str]:
        """The header that opens it."""
        keys = self.served.options.api_key
        return {"authorization": f"Bearer {keys[0]}"} if keys else {}


@contextmanager
def server(*, port: int = 0, **script: Any) -> Generator[Running]:
    """A server of the echo backend, which follows `script` as `serving` takes it; it runs in a thread of its own.

    Args:
        port: where it listens; 0 chooses one.
    """

    @asynccontextmanager
    async def running() -> AsyncGenerator[Running]:
        async with serving(**script) as served, listening(served, port) as chosen:
            yield Running(f"http://127.0.0.1:{chosen}", served)

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(running()) as started:
        yield started


@attrs.frozen
class UI:
    """One page that shows the web UI, with what a test does there again and again."""

    page: Page

    def open(self, url: str, *, ready: bool = True) -> None:
        """Go there; wait until the model answers."""
        self.page.goto(url)
        if ready:
            expect(self.named("button", re.compile("Server .*: ready"))).to_be_visible()

    def named(self, role: Any, name: str | re.Pattern[str], **more: Any) -> Locator:
        """An element as a screen reader finds it."""
        return self.page.get_by_role(role, name=name, **more)

    @property
    def field(self) -> Locator:
        """Where a message is written."""
        return self.named("textbox", "Message")

    @property
    def answers(self) -> Locator:
        """The model's messages."""
        return self.page.locator("article.assistant")

    @property
    def notice(self) -> Locator:
        """What the page says is wrong between it and the server."""
        return self.page.locator(".notice")

    def say(self, text: str) -> None:
        """Write a message and send it with Enter."""
        self.field.fill(text)
        self.field.press("Enter")

    def whole(self) -> None:
        """Wait until the last answer has ended."""
        expect(self.answers.last).to_have_attribute("aria-busy", "false")


@contextmanager
def web_ui(browser: Browser, *, noise: str = "", **context: Any) -> Generator[UI]:
    """A page of a fresh profile. At its end: no script failed, no policy was broken, no other machine was asked.

    Args:
        noise: what the browser's console may say besides what it says of every failed request; a regular expression.
    """
    chosen: Any = {"viewport": WIDE, **context}
    with contextlib.closing(browser.new_context(**chosen)) as fresh:
        fresh.set_default_timeout(PATIENCE_MS)
        fresh.grant_permissions(["clipboard-read", "clipboard-write"])
        page = fresh.new_page()
        faults: list[str] = []
        watch(page, faults, noise)
        yield UI(page)
        assert not faults, faults


def watch(page: Page, faults: list[str], noise: str) -> None:
    """Note what should not happen in a page."""

    def said(message: ConsoleMessage) -> None:
        expected = EXPECTED.search(message.text) or (noise and re.search(noise, message.text))
        if message.type in ("error", "warning") and not expected:
            faults.append(message.text)

    def asked(request: Request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:")):
            faults.append(f"asked {request.url}")

    page.on("console", said)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: faults.append(f"a dialog said {dialog.message}"))
    page.on("request", asked)


def until(page: Page, holds: Callable[[], bool], within_ms: int = PATIENCE_MS) -> None:
    """Wait for something outside the page."""
    for _ in range(within_ms // 50):
        if holds():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not come to hold")
