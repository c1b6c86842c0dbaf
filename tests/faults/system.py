"""Scenarios in which the machine fails the server: no files left, no disk, no log, no locale, a clock that jumps.

Their rows are F31, F33 and F35 to F38. What needs root or a program of the system says so and fails without it; the table puts
it into the lane `chaos`.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
from tests.openllm.serialisation import small

from .inject import PATIENCE_S, Raw, follow, streams, until
from .lab import COMPLETIONS, Lab, body, client
from .lifecycle import answers, has_other_host, ready

NOWHERE = "/dev/null/nowhere"
"""A folder in which not even root can write."""
SPARE_FILES = 24
KILLS = 20


async def too_few_files(lab: Lab) -> None:
    """With no descriptor left, running streams go on, others wait or are closed, and afterwards all is as before."""
    with lab.bare() as server:
        process = psutil.Process(server.process.pid)
        async with client(server) as http:
            whole = body(max_tokens=400, ignore_eos=True, stream=True)
            tasks, _ = await streams(http, COMPLETIONS, [whole] * 4)
            limit = process.num_fds() + SPARE_FILES
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, limit))
            crowd = [
                Raw.open(server) for _ in range(3 * SPARE_FILES)
            ]  # the kernel takes them whether or not the server does
            ended = await asyncio.gather(*tasks)
            assert all(one.done for one in ended), ended
            assert process.num_fds() <= limit
        for one in crowd:
            one.sock.close()
        await until(lambda: ready(server), "it recovers")
        await answers(server)


async def nothing_is_writable(lab: Lab) -> None:
    """A server whose home, temporary and runtime folders take no file serves all the same; an import says what is wrong."""
    names = ("HOME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "BENTOML_HOME", "OPENLLM_HOME")
    environ: dict[str, str] = dict.fromkeys(names, NOWHERE)
    with lab.bare(environ=environ) as server:
        await answers(server)
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.process.wait, PATIENCE_S) == 0
    model = small.model_folder(lab.folder / "unwritable")
    done = await command("import", str(model), environ=environ)
    assert done.returncode == 74, done.stderr
    assert NOWHERE in done.stderr and "Traceback" not in done.stderr


async def log_cannot_be_written(lab: Lab) -> None:
    """Neither a full disk nor a pipe that nobody reads holds up a request, however much there is to log."""
    with open("/dev/full", "wb") as full, lab.bare("--debug", output=full) as server:
        await answers(server)
    with lab.bare("--debug", output=subprocess.PIPE) as server:
        async with client(server) as http:
            for number in range(600):  # some hundred bytes of log each: many times what the pipe holds
                async with asyncio.timeout(PATIENCE_S):
                    assert (await http.get(f"/nowhere/{'x' * 150}{number}")).status_code == 404
        await answers(server)


async def locale_is_c(lab: Lab) -> None:
    """Without any UTF-8 around it, a server and the commands still take and give every character."""
    environ = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    text = "héllo wörld, 日本語, 🎉"
    with lab.bare("--debug", environ=environ) as server:
        async with client(server) as http:
            seen = await follow(http, COMPLETIONS, body(text, max_tokens=200, stream=True))
            assert seen.done and seen.text == text
        assert "日本" not in server.log.read_text(encoding="utf-8", errors="strict")
    named = Path(os.fsdecode(os.fsencode(lab.folder) + b"/mod\xe9le"))
    if not named.exists():
        shutil.copytree(small.model_folder(lab.folder / "plain"), named)
    home = {"BENTOML_HOME": str(lab.folder / "bentoml-c")}
    for words in (("import", str(named)), ("models", "-o", "json"), ("models",)):
        done = await command(*words, environ=environ | home)
        assert done.returncode == 0, done.stderr


async def clock_jumps(lab: Lab) -> None:
    """The wall clock jumps by hours and years while streams run: none expires, and the log goes on."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    assert found, "libfaketime is missing; Debian, Ubuntu: apt-get install libfaketime"
    clock = lab.folder / "clock"
    clock.write_text("+0s", encoding="utf-8")
    environ = {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with lab.bare("--server-timeout", "60", "--queue-timeout", "30", environ=environ) as server:
        async with client(server) as http:
            whole = body(max_tokens=600, ignore_eos=True, stream=True)
            tasks, _ = await streams(http, COMPLETIONS, [whole] * 4)
            for jump in ("+3600s", "-3600s", "-10y", "+10y"):
                clock.write_text(jump, encoding="utf-8")
                await asyncio.sleep(0.3)
                assert (await follow(http, COMPLETIONS, body(stream=True))).done
            assert all(one.done for one in await asyncio.gather(*tasks))


async def as_process_one(lab: Lab) -> None:
    """As the first process of a namespace the server reaps all that dies in it, and ends at SIGTERM."""
    assert shutil.which("unshare") and os.geteuid() == 0, "needs root and unshare"
    with lab.bare("--restarts", "100", before=("unshare", "--pid", "--fork", "--mount-proc")) as outer:
        (first,) = psutil.Process(outer.process.pid).children()
        for _ in range(KILLS):
            killed = outer.host_pid()
            os.kill(killed, signal.SIGKILL)
            await until(lambda pid=killed: has_other_host(outer, pid), "another engine")
            await until(lambda: ready(outer), "it is ready again", 120)
        zombies = [one for one in first.children(recursive=True) if one.status() == psutil.STATUS_ZOMBIE]
        assert zombies == []
        await answers(outer)
        first.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(outer.process.wait, PATIENCE_S) == 0


async def command(*words: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run an `openllm` command to its end."""
    arguments = [sys.executable, "-m", "openllm", *words]
    return await asyncio.to_thread(
        subprocess.run,
        arguments,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )
