"""A server whose Pythons tell what they open, connect to and run as code, by the hook in `audit/sitecustomize.py`.

Used by scenarios and by `test_audit.py`, which ask for a while and then read what the server and its engine did meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import attrs
from tests.e2e.conftest import ServerProcess

from .lab import Lab

HOOK = Path(__file__).with_name("audit")


@attrs.define
class Audited:
    """A running server and what its processes wrote down."""

    server: ServerProcess
    _file: Path
    _read: int = 0

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """What happened since the last call, imports left out: `pid`, `event`, `what`."""
        with self._file.open("rb") as file:
            file.seek(self._read)
            lines = file.read()
        self._read += len(lines)
        told = [json.loads(line) for line in lines.splitlines()]
        return [one for one in told if one["event"] in kinds and not one["importing"]]


@contextlib.contextmanager
def audited(lab: Lab, *arguments: str, **script: Any) -> Generator[Audited]:
    """A server of a scenario's own with the hook in all its processes; what it did until it was ready is read already."""
    file = lab.folder / f"audit-{lab.backend}-{len(list(lab.folder.glob('audit-*')))}.jsonl"
    paths = os.pathsep.join(filter(None, [str(HOOK), os.environ.get("PYTHONPATH", "")]))
    with lab.own(*arguments, environ={"PYTHONPATH": paths, "OPENLLM_TEST_AUDIT": str(file)}, **script) as server:
        watched = Audited(server, file)
        assert watched.events("open"), "the hook saw nothing"
        yield watched
