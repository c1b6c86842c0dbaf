"""Takes the pictures of the web UI that the documentation shows: `python -m tools.ui_pictures [URL]`.

Those of the chat show a scripted answer of the echo backend, so that they are the same each time; with the URL of a server
of the default model, the picture of the playground is taken of its real figures. The browser is the one of the tests.
Called by hand, after a change that can be seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ViewportSize, expect
from tests.ui.chromium import open_browser
from tests.ui.pages import UI, server, web_ui

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
WIDE: ViewportSize = {"width": 1280, "height": 800}
MOBILE: ViewportSize = {"width": 390, "height": 780}
QUESTION = "Write a Python function that finds the longest word in a text."
ANSWER = """Here is one. It splits the text and lets `max` compare by length:

```python
def longest_word(text: str) -> str:
    \"\"\"The longest word; the first of several.\"\"\"
    words = [word.strip(".,;!?") for word in text.split()]
    return max(words, key=len, default="")


print(longest_word("A calm sea never made a skilled sailor."))
```

| input | answer |
|---|---|
| an empty text | `""` |
| *one two three* | **three** |

1. `split` without arguments takes any blanks.
2. `key=len` compares by length, and ties go to the first.
"""
STEP_S = 0.01
MAX_BYTES = 150_000
ANSWER_MS = 300_000


def chat(ui: UI) -> None:
    """A question and its answer."""
    ui.say(QUESTION)
    expect(ui.answers.last).to_have_attribute("aria-busy", "false", timeout=ANSWER_MS)


def playground(ui: UI) -> None:
    """A continuation with its log-probabilities."""
    ui.named("button", "Parameters", exact=True).click()
    ui.named("textbox", "Temperature").fill("0")
    ui.named("textbox", "Most tokens").fill("16")
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
    parser.add_argument("url", nargs="?", help="a server of the default model, for the picture of the playground")
    url: str | None = parser.parse_args().url
    with open_browser() as browser, server(reply=ANSWER, step_s=STEP_S) as scripted:
        for name, (prepare, _) in PICTURES.items():
            if prepare is chat:
                take(browser, scripted.url, name)
            elif url is not None:
                take(browser, url, name)


if __name__ == "__main__":
    main()
