"""`openllm chat`: a conversation with a running server, on a terminal or through a pipe.

On a terminal: a line editor with history, streamed answers, Ctrl-C stops an answer, Ctrl-D leaves. Through a pipe: each
line is a turn, stdout carries the answers alone. A server error is one line and the conversation goes on.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from openllm.cli.command import Session
from openllm.cli.failures import hint_of, report
from openllm.cli.line_editor import LineEditor
from openllm.cli.output import Output, output_option
from openllm.cli.remote import (
    Answer,
    AskCommand,
    Remote,
    connect,
    endpoint_options,
    sampling_option,
    server_type_option,
    speed_text,
)
from openllm_core.errors import OpenLLMError

WORDS = {
    "/help": "these words",
    "/reset": "forget the conversation; the system message stays",
    "/system": "show or set the system message: /system You are terse.",
    "/save": "write the conversation to a file: /save talk.json",
    "/model": "show the served models, or change to one: /model NAME",
    "/exit": "leave (Ctrl-D does too)",
}


@click.command("chat", cls=AskCommand)
@endpoint_options
@server_type_option
@click.option("--model", metavar="NAME", help="Served model to talk to; default: the server's first.")
@click.option("--system", metavar="TEXT", help="System message.")
@sampling_option
@output_option
@click.pass_obj
def command(
    session: Session,
    endpoint: str | None,
    timeout: float,
    server_type: str,
    model: str | None,
    system: str | None,
    sampling_params: dict[str, Any],
    output: str,
) -> int:
    """Chat with a running server.

    Type a message; end a line with a backslash to go on in the next one. /help lists the words that are not sent.
    Through a pipe, each line is a turn and stdout gets the answers (with -o json, one JSON object a line).
    """
    out = Output(output, session)
    with connect(endpoint, timeout, server_type) as remote:
        remote.choose(model)
        return converse(remote, out, system=system, sampling=sampling_params)


def converse(remote: Remote, out: Output, *, system: str | None = None, sampling: dict[str, Any] | None = None) -> int:
    """Talk until the input ends.

    Args:
        remote: the server; its model is chosen.
        sampling: fields sent with every turn.

    Returns:
        0, or on a pipe the exit code of the last turn that failed.
    """
    return Conversation(remote, out, system=system, sampling=sampling or {}).run()


class Conversation:
    """The turns so far, and the words that steer them."""

    def __init__(self, remote: Remote, out: Output, *, system: str | None, sampling: dict[str, Any]) -> None:
        self.remote = remote
        self.out = out
        self.system = system
        self.sampling = sampling
        self.turns: list[dict[str, str]] = []
        self.failed = 0
        self.interactive = sys.stdin.isatty()
        self.on_terminal = sys.stdout.isatty()

    @property
    def messages(self) -> list[dict[str, str]]:
        """What is sent: the system message, then the turns."""
        return [{"role": "system", "content": self.system}, *self.turns] if self.system else list(self.turns)

    def run(self) -> int:
        """Read, send, print, until the input ends or /exit."""
        if self.interactive:
            self.out.say(f"{self.remote.model} at {self.remote.endpoint}", dim=True)
            self.out.say("/help for help, Ctrl-C stops an answer, Ctrl-D leaves.", dim=True)
        for line in self._lines():
            if line.startswith("/"):
                if not self._obey(line):
                    break
            elif line.strip():
                self._turn(line)
        return 0 if self.interactive else self.failed

    def _lines(self) -> Iterator[str]:
        if not self.interactive:
            for line in sys.stdin:
                yield line.rstrip("\n")
            return
        with LineEditor(words=tuple(WORDS)) as editor:
            while True:
                try:
                    line = editor.read("› ")
                    while line.endswith("\\"):
                        line = line[:-1] + "\n" + editor.read("… ")
                except KeyboardInterrupt:
                    self.out.say("\nCtrl-D or /exit leaves.", dim=True)
                    continue
                except EOFError:
                    self.out.say()
                    return
                yield line

    # -- one turn -------------------------------------------------------------------------------------------------

    def _turn(self, text: str) -> None:
        """Send one message and show its answer; a failure takes the message back, so that it can be sent again."""
        self.turns.append({"role": "user", "content": text})
        answer = self.remote.ask(self.messages, self.sampling)
        try:
            with closing(answer):
                self._show(answer)
        except KeyboardInterrupt:
            self._stopped(answer)
        except OpenLLMError as error:
            if answer.text:
                self.out.data("")
            report(error.message, hint_of(error))
            self.failed = error.exit_code
            self.turns.pop()
        else:
            self.turns.append({"role": "assistant", "content": answer.text})
            self._after(answer)

    def _show(self, answer: Answer) -> None:
        if self.out.format == "json":
            for _ in answer:
                continue
            self.out.data(json.dumps(answer.as_data(), ensure_ascii=False))
            return
        self.out.stream(answer)

    def _after(self, answer: Answer) -> None:
        if self.interactive and self.on_terminal:
            self.out.say(speed_text(answer), dim=True)
            self.out.say()

    def _stopped(self, answer: Answer) -> None:
        """Ctrl-C: keep what was said so far, and go on. Through a pipe there is no one to go on with."""
        self.out.data("")
        if not self.interactive:
            raise KeyboardInterrupt
        if answer.text:
            self.turns.append({"role": "assistant", "content": answer.text})
        else:
            self.turns.pop()
        self.out.say("Stopped.", dim=True)
        self.out.say()

    # -- words ----------------------------------------------------------------------------------------------------

    def _obey(self, line: str) -> bool:
        """Do what a /word says; False means leave."""
        word, _, rest = line.partition(" ")
        if word in ("/exit", "/quit", "/bye"):
            return False
        actions: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/reset": self._reset,
            "/system": self._system,
            "/save": self._save,
            "/model": self._model,
        }
        action = actions.get(word)
        if action is None:
            report(f"there is no {word}.", f"{' '.join(WORDS)}; begin with a space to send it as a message.")
        else:
            try:
                action(rest.strip())
            except OpenLLMError as error:
                report(error.message, hint_of(error))
            except OSError as error:
                report(f"{error.filename}: {error.strerror}.")
        return True

    def _help(self, rest: str) -> None:
        for word, meaning in WORDS.items():
            self.out.fact(word, meaning)

    def _reset(self, rest: str) -> None:
        self.turns.clear()
        self.out.say("The conversation starts anew.", dim=True)

    def _system(self, rest: str) -> None:
        self.system = rest or self.system
        self.out.say(f"System message: {self.system}" if self.system else "No system message.", dim=True)

    def _save(self, rest: str) -> None:
        path = Path(rest or time.strftime("chat-%Y%m%d-%H%M%S.json")).expanduser()
        talk = {"model": self.remote.model, "messages": self.messages}
        path.write_text(json.dumps(talk, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        self.out.say(f"Saved {len(self.turns)} messages to {path}.", dim=True)

    def _model(self, rest: str) -> None:
        if rest:
            self.remote.choose(rest)
        for name in self.remote.models():
            self.out.say(f"{'*' if name == self.remote.model else ' '} {name}", dim=True)
