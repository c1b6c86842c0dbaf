"""Reading a line on a terminal: editing keys, history that lasts, completion of /words. Used by `openllm chat`.

Stands on the standard library's readline; where Python lacks it, lines are read plainly.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

from openllm.cli.command import colours

HISTORY_LENGTH = 2000


class LineEditor:
    """A context in which `read` edits lines; the history file is loaded on entry and saved on exit.

    Args:
        words: what Tab completes at the beginning of a line.
        history: file of the history; default `$XDG_STATE_HOME/openllm/chat_history`.
    """

    def __init__(self, words: tuple[str, ...] = (), history: Path | None = None) -> None:
        self.words = words
        self.history = history or history_file()

    def __enter__(self) -> Self:
        with suppress(ImportError):
            import readline

            readline.set_history_length(HISTORY_LENGTH)
            readline.set_completer_delims("\n")
            readline.set_completer(self._complete)
            libedit = "libedit" in (readline.__doc__ or "")
            readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
            with suppress(OSError):
                readline.read_history_file(self.history)
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(ImportError):
            import readline

            readline.set_completer(None)
            with suppress(OSError):  # a read-only home loses the history, not the conversation
                self.history.parent.mkdir(parents=True, exist_ok=True)
                self.history.touch(mode=0o600)
                readline.write_history_file(self.history)

    def read(self, prompt: str) -> str:
        """One line without its end.

        Raises:
            EOFError: Ctrl-D on an empty line.
            KeyboardInterrupt: Ctrl-C.
        """
        if not sys.stdout.isatty():  # stdout is data: the prompt goes to stderr, and readline is not used
            sys.stderr.write(prompt)
            sys.stderr.flush()
            return input()
        if not colours(sys.stdout):
            return input(prompt)
        # \001 and \002 tell readline which characters take no room on the line; without it a terminal would get them
        begin, end = ("\001", "\002") if sys.modules.get("readline") else ("", "")
        return input(f"{begin}\033[36m{end}{prompt}{begin}\033[0m{end}")

    def _complete(self, text: str, state: int) -> str | None:
        found = [f"{word} " for word in self.words if text.startswith("/") and word.startswith(text)]
        return found[state] if state < len(found) else None


def history_file() -> Path:
    """Where chat history is kept."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "openllm" / "chat_history"
