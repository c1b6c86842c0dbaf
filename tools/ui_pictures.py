"""Takes the pictures of the web UI that the documentation shows: `python tools/ui_pictures.py URL` of a running server.

They are of real answers: start the default model first (`openllm start`). The browser is the one of the tests. Called by
hand, after a change that can be seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ViewportSize, expect
from tests.ui.chromium import open_browser
from tests.ui.pages import UI, web_ui

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
WIDE: ViewportSize = {"width": 1280, "height": 800}
MOBILE: ViewportSize = {"width": 390, "height": 780}
QUESTIONS = ("What is the capital of France?", "Write a Python function that counts the words of a text.")
MAX_BYTES = 150_000
ANSWER_MS = 120_000


def chat(ui: UI) -> None:
    """Two questions and their answers, at temperature 0."""
    ui.named("button", "Parameters", exact=True).click()
    ui.named("textbox", "Temperature").fill("0")
    ui.named("textbox", "Most tokens").fill("220")
    ui.named("button", "Close the parameters").click()
    for question in QUESTIONS:
        ui.say(question)
        expect(ui.answers.last).to_have_attribute("aria-busy", "false", timeout=ANSWER_MS)


def playground(ui: UI) -> None:
    """A continuation with its log-probabilities."""
    ui.named("button", "Parameters", exact=True).click()
    ui.named("textbox", "Temperature").fill("0")
    ui.named("textbox", "Most tokens").fill("24")
    ui.named("tab", "Playground").click()
    ui.named("tab", "Log-probabilities").click()
    ui.named("button", "Score").click()
    ui.page.locator(".token").nth(4).click(timeout=ANSWER_MS)


PICTURES: dict[str, tuple[Callable[[UI], None], dict[str, Any]]] = {
    "web-ui.png": (chat, {"viewport": WIDE}),
    "web-ui-dark.png": (playground, {"viewport": WIDE, "color_scheme": "dark"}),
    "web-ui-mobile.png": (chat, {"viewport": MOBILE, "has_touch": True, "is_mobile": True}),
}


def take(browser: Browser, url: str, name: str) -> None:
    """One picture."""
    prepare, context = PICTURES[name]
    with web_ui(browser, **context) as ui:
        ui.open(url)
        prepare(ui)
        ui.page.mouse.move(0, 0)
        target = IMAGES / name
        ui.page.screenshot(path=target, animations="disabled", caret="hide")
        size = target.stat().st_size
        print(f"{size:>8} {name}")
        if size > MAX_BYTES:
            raise SystemExit(f"{name} is larger than {MAX_BYTES} bytes")


def main() -> None:
    """Take all of them."""
    parser = argparse.ArgumentParser(description="Take the pictures of the web UI.")
    parser.add_argument("url", help="a running server, http://127.0.0.1:3000")
    url = parser.parse_args().url
    with open_browser() as browser:
        for name in PICTURES:
            take(browser, url, name)


if __name__ == "__main__":
    main()
