"""The way of a log line out of a server: bounded, never waiting, one line per record, without secrets."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openllm import logs
from openllm.logs import LineSink, LogHandler, Redaction, TalkStream, dropped, json_line, plain_line
from openllm.observation import Observation, Observers

INJECTIONS = ["\n", "\r\n", "\x1b[31m", "\x1b]0;t\x07", "\u2028", "\u2029", "\x85", "\x00", "\x7f", "\x9b1m", "\ud800"]
NOTHING = Redaction(())


def record(message: str, level: int = logging.INFO, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("openllm.test", level, "file.py", 1, "%s", (message,), None)
    made.__dict__.update(more)
    return made


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            continue


@pytest.mark.parametrize("line", [json_line, plain_line, logs.debug_line])
@pytest.mark.parametrize("evil", INJECTIONS)
def test_nothing_makes_a_second_line(line: Callable[[logging.LogRecord], str], evil: str) -> None:
    """Ends of lines of any alphabet, escape sequences and broken text stay on the line of their record, as escapes."""
    written = line(record(f"before{evil}after")).encode("utf-8", "backslashreplace").decode()
    assert len(written.splitlines()) == 1
    assert all(character.isprintable() for character in written)


def test_json_says_what_is_known() -> None:
    """Time, level, logger and message, whose request it was, and what the record adds."""
    seen = Observation(request_id="r1", protocol="http", method="GET", route="/x", trace_id="t1", span_id="s1")
    with Observers().watch(seen, {}):
        found = json.loads(json_line(record("hi", logging.WARNING, fields={"status": "200"})))
    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "warning",
        "logger": "openllm.test",
        "message": "hi",
        "request_id": "r1",
        "trace_id": "t1",
        "span_id": "s1",
        "status": "200",
    }
    assert "request_id" not in json.loads(json_line(record("later")))


def test_an_exception_is_part_of_its_record() -> None:
    """In JSON one more field; for people, lines that are indented and cannot be taken for others."""
    try:
        raise ValueError("bad\n2026 ERROR forged")
    except ValueError as error:
        made = record("it failed", exc_info=(ValueError, error, error.__traceback__))
    assert "ValueError: bad" in json.loads(json_line(made))["exception"]
    assert all(line.startswith("    ") for line in plain_line(made).split("\n")[1:])


def test_secrets_leave_every_line(pipe: tuple[int, int]) -> None:
    """Keys that the server knows, variables whose names say that they are secret, and tokens by their shape."""
    reading, writing = pipe
    environ = {"HF_TOKEN": "sentinel-token", "OPENLLM_API_KEY": "first-key, second-key", "PATH": "/usr/local/bin"}
    sink = LineSink(writing, Redaction.of(["the-admin-key", 'quo"ted-key'], environ))
    handler = LogHandler(sink, as_json=True)
    for word in (*environ["OPENLLM_API_KEY"].split(", "), "sentinel-token", "the-admin-key", 'quo"ted-key'):
        handler.emit(record(f"with {word} inside", fields={"more": word}))
    handler.emit(record("Authorization: Bearer abcdefgh12345, hf_abcdefghijklmnop1234, and /usr/local/bin"))
    sink.close(30)
    written = os.read(reading, 1 << 20).decode()
    for secret in ("first-key", "second-key", "sentinel-token", "admin-key", "ted-key", "abcdefgh"):
        assert secret not in written
    assert "/usr/local/bin" in written and written.count("[redacted]") >= 12
    assert all(json.loads(line) for line in written.splitlines())


def test_a_pipe_that_nobody_reads_holds_nobody_up(pipe: tuple[int, int]) -> None:
    """Lines wait up to a bound and are then dropped and counted; whoever logs never waits; what was kept comes whole."""
    reading, writing = pipe
    before = dropped.lines
    sink = LineSink(writing, NOTHING, max_lines=50)
    text = "x" * 999 + "\n"
    began = time.monotonic()
    for _ in range(2000):
        sink.put(text)
    assert time.monotonic() - began < 5
    wait_until(lambda: dropped.lines > before)
    lost = dropped.lines - before
    sink.close(0.01)
    os.set_blocking(reading, False)
    read = b""
    end = time.monotonic() + 30
    while len(read) < (2000 - lost) * 1000 and time.monotonic() < end:
        try:
            read += os.read(reading, 1 << 16)
        except BlockingIOError:
            time.sleep(0.005)
    assert 1000 < lost < 2000
    assert read == text.encode() * (2000 - lost)


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    """Where the system refuses a write, what it refused is counted as lost."""
    before = dropped.lines
    full = os.open("/dev/full", os.O_WRONLY)
    sink = LineSink(full, NOTHING)
    for number in range(5):
        sink.put(f"{number}\n")
    wait_until(lambda: dropped.lines == before + 5)
    sink.close(30)
    os.close(full)


def test_a_reader_that_left_costs_lines_and_nothing_else(pipe: tuple[int, int]) -> None:
    """A closed pipe is an error of each write, not the end of the process."""
    reading, writing = pipe
    os.close(reading)
    before = dropped.lines
    sink = LineSink(writing, NOTHING)
    sink.put("lost\n")
    wait_until(lambda: dropped.lines > before)
    sink.close(30)


def test_a_file_that_was_moved_away_is_opened_anew(tmp_path: Path) -> None:
    """As log rotation wants it: the old file keeps its lines, the next one goes into a new file, for its owner alone."""
    path = tmp_path / "openllm.log"
    sink = LineSink(path, NOTHING)
    sink.put("one\n")
    wait_until(lambda: path.read_text() == "one\n")
    path.rename(tmp_path / "old.log")
    sink.reopen()
    wait_until(path.exists)
    sink.put("two\n")
    sink.close(30)
    assert ((tmp_path / "old.log").read_text(), path.read_text()) == ("one\n", "two\n")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_signal_may_come_while_a_line_is_put(tmp_path: Path) -> None:
    """SIGHUP interrupts the thread that puts lines wherever it is: its handler waits for nothing that this thread holds."""
    sink, reached = LineSink(tmp_path / "log", Redaction(())), 0

    def put_and_interrupt(at: int) -> None:
        count = 0

        def interrupt(*_: object) -> None:
            nonlocal count, reached
            count += 1
            if count == at:
                reached += 1
                sink.reopen()

        sys.setprofile(interrupt)  # called at every call and every return
        sink.put("line\n")
        sys.setprofile(None)

    def interrupted() -> None:
        for at in range(1, 41):
            put_and_interrupt(at)
            time.sleep(0.002)  # the sink's thread waits again, so that the next line wakes it

    putting = threading.Thread(target=interrupted, daemon=True)
    putting.start()
    putting.join(20)
    assert not putting.is_alive()
    sink.close()
    assert reached > 5
    assert (tmp_path / "log").read_text() == "line\n" * 40


@pytest.mark.parametrize("as_json", [True, False])
def test_what_is_printed_goes_the_same_way(pipe: tuple[int, int], as_json: bool) -> None:
    """Text on stderr is one record a line in JSON, without colours; for people it passes as it is."""
    reading, writing = pipe
    sink = LineSink(writing, NOTHING)
    with open(os.devnull, "w") as original:
        talk = TalkStream(sink, original, as_json=as_json)
        print("\x1b[1mReady\x1b[0m", "now", file=talk)
        print(file=talk)
        print("no end", end="", file=talk)
        talk.finish()
    sink.close(30)
    written = os.read(reading, 1 << 16).decode()
    if as_json:
        assert [json.loads(line)["message"] for line in written.splitlines()] == ["Ready now", "no end"]
    else:
        assert written == "\x1b[1mReady\x1b[0m now\n\nno end"


def test_a_record_that_is_wrong_is_told_and_no_more(pipe: tuple[int, int]) -> None:
    """A message whose arguments do not fit it must not raise where somebody logs."""
    reading, writing = pipe
    sink = LineSink(writing, NOTHING)
    LogHandler(sink, as_json=True).emit(logging.LogRecord("x", 20, "f", 1, "%d", ("no number",), None))
    sink.close(30)
    assert b"could not be written: TypeError" in os.read(reading, 1 << 16)
