"""openllm-node, the TypeScript client: its types, its own tests, and those against a real server of the echo backend."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests import npm
from tests.openllm.server.serving import listening, serving

SOURCE = Path(__file__).resolve().parents[2] / "openllm-node"
REPLY = "Grüße, world 🙂!"
KEY = "secret"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, compiled, beside the compiler that its lock file names; that is fetched once per environment."""
    lock = (SOURCE / "package-lock.json").read_bytes()
    tools = Path(sys.prefix) / f"openllm-node-{hashlib.sha256(lock).hexdigest()[:12]}"
    tools.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(SOURCE / name, tools)
    npm.install(tools, "ci")
    folder = tmp_path_factory.mktemp("openllm-node")
    shutil.copytree(SOURCE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules", "build", "dist"))
    (folder / "node_modules").symlink_to(tools / "node_modules")
    compile_with(folder, "tsconfig.json")
    return folder


def compile_with(folder: Path, settings: str) -> None:
    """Run the compiler: a wrong type fails."""
    command = [npm.NODE, "node_modules/typescript/bin/tsc", "--project", settings]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def run_tests(folder: Path, *names: str, **environ: str) -> None:
    """Run node's test runner over compiled test files."""
    files = [f"build/tests/{name}.test.js" for name in names]
    done = subprocess.run(
        [npm.NODE, "--test", "--test-reporter=tap", *files],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | environ,
    )
    assert done.returncode == 0, "\n".join(line for line in done.stdout.splitlines() if "not ok" in line) + done.stdout
    assert re.search(r"^# skipped 0$", done.stdout, re.MULTILINE) and "# pass 0" not in done.stdout


def test_on_the_wire(package: Path) -> None:
    """Its own tests: events, time-outs, retries, refusals, broken streams."""
    run_tests(package, "sse", "wire")


async def test_against_a_server(package: Path) -> None:
    """Every method, both kinds of stream, the key, and what leaving a stream does on the server."""
    async with (
        serving(reply=REPLY, embed=8, options={"api_key": (KEY,)}) as served,
        listening(served) as port,
        serving(reply="a" * 4000, step_s=0.05) as slow,
        listening(slow) as slow_port,
    ):
        environ = {
            "OPENLLM_ENDPOINT": f"127.0.0.1:{port}",
            "OPENLLM_API_KEY": KEY,
            "REPLY": REPLY,
            "SLOW": f"127.0.0.1:{slow_port}",
        }
        await asyncio.to_thread(run_tests, package, "server", **environ)


async def test_the_readme_is_true(package: Path) -> None:
    """Its program runs as it stands, with the package as it would be installed."""
    compile_with(package, "tsconfig.build.json")
    (program,) = re.findall(r"```ts\n(.*?)```", (SOURCE / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (package / "readme.ts").write_text(program, encoding="utf-8")
    settings = {"extends": "./tsconfig.json", "compilerOptions": {"outDir": "readme"}, "include": ["readme.ts"]}
    (package / "tsconfig.readme.json").write_text(json.dumps(settings))
    compile_with(package, "tsconfig.readme.json")
    async with serving(reply=REPLY, embed=8) as served, listening(served) as port:
        done = await asyncio.to_thread(
            subprocess.run,
            [npm.NODE, "readme/readme.js"],
            cwd=package,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            env=os.environ | {"OPENLLM_ENDPOINT": f"127.0.0.1:{port}"},
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(REPLY) == 2 and "2 vectors of 8 numbers" in done.stdout


def test_the_package_is_as_npm_wants_it() -> None:
    """A name and a description of its own, no dependency, and a lock file that names no registry and no folder."""
    facts = json.loads((SOURCE / "package.json").read_bytes())
    assert facts["name"] == "@bentoml/openllm-node" and facts["description"] and facts["license"] == "Apache-2.0"
    assert "dependencies" not in facts
    locked = json.loads((SOURCE / "package-lock.json").read_bytes())["packages"]
    assert all("resolved" not in package for package in locked.values())
    assert all("integrity" in package for path, package in locked.items() if path)
