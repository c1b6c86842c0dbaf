"""Planted into every Python of a server under test (by PYTHONPATH): writes down what it opens, connects to and runs as code.

One line an event, straight to a file descriptor, so that writing is no event itself. Code that an import runs is marked as
such. Read by `tests/faults/audited.py`; does nothing unless OPENLLM_TEST_AUDIT names a file.
"""

import json
import os
import sys

WATCHED = {"open", "socket.connect", "socket.getaddrinfo", "pickle.find_class", "marshal.loads", "exec", "compile"}
_target = os.environ.get("OPENLLM_TEST_AUDIT")
_sink = os.open(_target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if _target else -1


def _importing() -> bool:
    """Whether an import is under way in this thread."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage] - inspect would be imported into every process
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _seen(event: str, arguments: tuple[object, ...]) -> None:
    if event in WATCHED:
        shown = [repr(argument)[:200] for argument in arguments[:2]]
        told = {"pid": os.getpid(), "event": event, "what": shown, "importing": _importing()}
        os.write(_sink, json.dumps(told).encode() + b"\n")


if _sink >= 0:
    sys.addaudithook(_seen)
