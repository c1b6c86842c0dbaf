"""What counts in tools/chaos.py can tell a stream that was cut from one that was told, and adds up what it counted."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import mmap
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = 'data: {"choices": [{"text": "a"}]}\n\n'


@pytest.fixture(scope="module")
def chaos() -> Any:
    """The tool."""
    spec = importlib.util.spec_from_file_location("chaos", ROOT / "tools/chaos.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Cut(httpx.AsyncByteStream):
    """A body that breaks off."""

    async def __aiter__(self) -> Any:
        yield TEXT.encode()
        raise httpx.ReadError("reset")


@pytest.mark.parametrize(
    ("answer", "ending"),
    [
        (httpx.Response(200, text=TEXT + "data: [DONE]\n\n"), "done"),
        (httpx.Response(200, text=TEXT + 'data: {"error": {"code": "shutting_down"}}\n\n'), "told"),
        (httpx.Response(200, text=TEXT), "silent"),
        (httpx.Response(200, text=": ping\n\n"), "silent"),
        (httpx.Response(503, json={"error": {}}), "refused"),
        (httpx.Response(200, stream=Cut()), "broken"),
    ],
)
async def test_how_a_stream_ended(chaos: Any, answer: httpx.Response, ending: str) -> None:
    """By its last event; one that stops without a word is a silent cut."""
    transport = httpx.MockTransport(lambda request: answer)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
        begun = asyncio.Event()
        assert await chaos.stream(http, "echo", begun) == ending
    assert begun.is_set()


def test_portions_add_up(chaos: Any) -> None:
    """Counts, lists and counts by name; words stay."""
    one = {
        "backend": "echo",
        "runs": 2,
        "streams": {"done": 3},
        "samples": {"told_s": [0.1]},
        "orphans": [],
        "date": "x",
    }
    other = {
        "backend": "echo",
        "runs": 5,
        "streams": {"done": 1, "told": 2},
        "samples": {"told_s": [0.3]},
        "orphans": ["7"],
    }
    assert chaos.added(one, other) == {
        "backend": "echo",
        "runs": 7,
        "streams": {"done": 4, "told": 2},
        "samples": {"told_s": [0.1, 0.3]},
        "orphans": ["7"],
    }
    assert chaos.at([5.0, 1.0, 3.0], 0.5) == 3.0 and chaos.at([5.0, 1.0, 3.0], 1.0) == 5.0


def test_each_portion_keeps_its_commit(chaos: Any, tmp_path: Path) -> None:
    """What is added is listed with its date, commit and processor; what stood there before portions were listed is the first one."""
    file = tmp_path / "chaos.json"
    old = {"backend": "echo", "commit": "abc1234", "runs": 3, "lost": 0, "samples": {"told_s": [0.1, 0.2, 0.3]}}
    file.write_text(json.dumps({"date": "2026-01-02", "drains": {"echo": old}}), encoding="utf-8")
    for runs in (2, 1):
        found = {"backend": "echo", "runs": runs, "lost": 0, "samples": {"told_s": [0.4] * runs}}
        asked = argparse.Namespace(output=file, piece="drains", add=True)
        chaos.record(asked, found)
    told = json.loads(file.read_text(encoding="utf-8"))["drains"]["echo"]
    first, *later = told["portions"]
    assert first == {"runs": 3, "lost": 0, "date": "2026-01-02", "commit": "abc1234"}
    assert [one["runs"] for one in later] == [2, 1]
    assert all("cpu" in one for one in later)
    assert (told["runs"], told["told_s_max"], told["commit"]) == (6, 0.4, later[-1]["commit"])
    chaos.record(argparse.Namespace(output=file, piece="drains", add=False), found)
    assert json.loads(file.read_text(encoding="utf-8"))["drains"]["echo"]["runs"] == 1


def test_shared_memory_that_others_use_is_theirs(chaos: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a living process has mapped was not left behind; what nobody has any more was."""
    monkeypatch.setattr(chaos, "SHARED_MEMORY", tmp_path)
    (tmp_path / "before").write_bytes(b"x")
    before = chaos.segments()
    foreign, own = "__KMP_REGISTERED_LIB_7_0", "__KMP_REGISTERED_LIB_8_0"
    monkeypatch.setattr(chaos, "OURS", {8})
    for name in ("used", "left", foreign, own):
        (tmp_path / name).write_bytes(b"x")
    with (tmp_path / "used").open("rb") as file, mmap.mmap(file.fileno(), 1, prot=mmap.PROT_READ):
        assert chaos.left_in_memory(before) == {"left", own}
    assert chaos.left_in_memory(before) == {"left", own, "used"}
