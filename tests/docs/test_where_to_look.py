"""CONTRIBUTING.md's table "Where to look", done: six additions in a copy of the repository, and precisely the files it names.

Each is made as its how-to page says. What was edited by hand must be what the row names, no file less and no file more; then
the generators run, and the tests of the third column pass in the copy.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/how-to/add-a-model.md").read_text(encoding="utf-8")
RUNTIME, CORE = "openllm-python/src/openllm", "openllm-core/src/openllm_core"
GENERATORS = ("gen_family_exports.py", "gen_reference.py", "gen_cli_reference.py")
TAKING_EVERY = (
    "tests/core/families/test_registry.py",
    "tests/core/config/test_auto.py",
    "tests/core/test_options.py",
    "tests/core/test_reference.py",
    "tests/openllm/cli/test_reference.py",
    "tests/openllm/server/test_openapi.py",
    "tests/enumerate/test_cancels.py",
)
CONCERNED = (
    "greet or parrot or tinystories or fresh or whole or engine_out_of_memory or left_behind or body_has_a_request"
)
"""The tests of what was added, and those that look at all there is; the others are run where nothing was."""
INSTALLING = """
import os, sys
from hatchling.build import build_editable
os.chdir("openllm-python")
build_editable(sys.argv[1])
"""


@attrs.define
class Copy:
    """A copy of this repository's files.

    Attributes:
        root: where it is.
        edited: what each addition changed by hand.
    """

    root: Path
    edited: dict[str, set[str]] = attrs.field(factory=dict)

    def digests(self) -> dict[str, str]:
        """Of each file, by its path."""
        files = (path for path in self.root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {file.relative_to(self.root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    def write(self, path: str, text: str) -> None:
        """A new file."""
        file = self.root / path
        assert not file.exists()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def before(self, path: str, line: str, text: str) -> None:
        """Put `text` before a line that stands in the file once."""
        file = self.root / path
        found = file.read_text(encoding="utf-8")
        assert found.count("\n" + line) == 1, (path, line)
        file.write_text(found.replace("\n" + line, f"\n{text}{line}"), encoding="utf-8")

    def done(self, task: str, how: Callable[[Copy], None]) -> None:
        """Make an addition, and note what it changed."""
        before = self.digests()
        how(self)
        after = self.digests()
        self.edited[task] = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}

    def run(self, *words: str) -> str:
        """A program of Python in the copy, which imports the copy's packages; what it printed."""
        sources = [f"{self.root}/openllm-{part}/src" for part in ("core", "client", "python")]
        installed = map(str, (self.root / ".installed").glob("*.whl"))  # its entry points
        path = os.pathsep.join([*installed, *sources])
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("OPENLLM_", "PYTEST_"))}
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.root,
            env=environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
        return done.stdout


def add_a_family(copy: Copy) -> None:
    """The page's example."""
    ((folder, name),) = re.findall(r"In the folder `(.+/)` write `(.+\.toml)`", PAGE)
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    copy.write(folder + name, text)


def add_a_backend(copy: Copy) -> None:
    """What `echo` does, under another name."""
    shutil.copytree(
        ROOT / RUNTIME / "backends/echo",
        copy.root / RUNTIME / "backends/parrot",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    copy.before(
        "openllm-python/pyproject.toml", 'pt = "openllm.backends.torch"', 'parrot = "openllm.backends.parrot"\n'
    )
    copy.before("openllm-python/pyproject.toml", "playground = [", 'parrot = ["numpy"]\n')
    copy.write("tests/openllm/backends/test_parrot.py", CONFORMANCE)


CONFORMANCE = '''"""The parrot backend."""

from openllm.backends import registry
from openllm.testing import BackendConformance
from openllm_core.options import EngineOptions


class TestParrot(BackendConformance):
    """It passes the suite every backend must pass."""

    def load(self):
        options = EngineOptions(backend="parrot", engine_arg={"peak": 1.0})
        return registry.get("parrot").load(options, lambda text, share: None)
'''


def add_a_route(copy: Copy) -> None:
    """`POST /v1/greet`."""
    copy.before(f"{CORE}/schema.py", "@attrs.frozen(kw_only=True)\nclass ModelCard:", MESSAGES)
    copy.before(f"{RUNTIME}/service/use_cases.py", "    def metadata(self) -> Metadata:", USE_CASE)
    copy.before(
        f"{RUNTIME}/service/use_cases.py",
        "from openllm_core.schema import (",
        "from openllm_core.schema import Greeting, GreetRequest\n",
    )
    copy.write(f"{RUNTIME}/server/routes/greet.py", ROUTE)
    copy.before(f"{RUNTIME}/server/app.py", "    health,\n", "    greet,\n")
    copy.before(
        f"{RUNTIME}/server/app.py", "        *health.operations(", "        *greet.operations(service, options),\n"
    )
    copy.write("tests/openllm/server/test_greet.py", ROUTE_TEST)
    contract, row = CONTRACT
    copy.before("tests/contract/test_every_route.py", "CONTRACTS: dict[", contract)
    copy.before("tests/contract/test_every_route.py", '    "GET /livez": livez,', row)
    copy.before(
        "tests/enumerate/requests.py", '    "POST /v1/metadata": {},', '    "POST /v1/greet": {"name": "Ann"},\n'
    )


MESSAGES = '''@attrs.frozen(kw_only=True)
class GreetRequest:
    """Body of `POST /v1/greet`."""

    name: str = field(help="Whom to greet.")


@attrs.frozen(kw_only=True)
class Greeting:
    """`POST /v1/greet`."""

    greeting: str = field(help="What to say.")


'''
USE_CASE = '''    def greet(self, request: GreetRequest) -> Greeting:
        """`POST /v1/greet`."""
        return Greeting(greeting=f"Hello, {request.name}!")

'''
ROUTE = '''"""`POST /v1/greet`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from openllm.service import Service
from openllm_core.options import ServerOptions
from openllm_core.schema import Greeting, GreetRequest
from openllm_core.serde import dumps

from ..body import read_message
from ..operation import BAD, Operation


def operations(service: Service, options: ServerOptions) -> list[Operation]:
    """The routes of this file."""

    async def greet(request: Request) -> ASGIApp:
        message = await read_message(request, GreetRequest, options)
        return Response(dumps(service.greet(message)), media_type="application/json")

    return [
        Operation(
            path="/v1/greet",
            methods=("POST",),
            endpoint=greet,
            summary="Say hello.",
            tag="OpenLLM",
            request=GreetRequest,
            closed=True,
            response=Greeting,
            errors=BAD,
            example={"name": "Ann"},
        )
    ]
'''
ROUTE_TEST = '''"""`POST /v1/greet`."""

from tests.openllm.server.serving import serving


async def test_it_greets() -> None:
    """By name; who names nobody is told so."""
    async with serving() as served:
        assert (await served.post("/v1/greet", {"name": "Ann"})).json() == {"greeting": "Hello, Ann!"}
        assert (await served.post("/v1/greet", {})).json()["error"]["param"] == "name"
'''
CONTRACT = (
    '''async def greet(caller: Caller) -> None:
    """A greeting."""
    assert (await caller.http.post("/v1/greet", json={"name": "Ann"})).json() == {"greeting": "Hello, Ann!"}


''',
    '    "POST /v1/greet": greet,\n',
)


def add_a_flag(copy: Copy) -> None:
    """`--greeting`."""
    line = '    greeting: str = setting("Hello", "Word to greet with.", env="OPENLLM_GREETING", group=ENGINE)\n'
    copy.before(f"{CORE}/options.py", "    startup: str = setting(", line)


def add_a_command(copy: Copy) -> None:
    """`openllm greet`."""
    copy.write(f"{RUNTIME}/cli/greet.py", COMMAND)
    line = '    "greet": ("openllm.cli.greet", "Say hello.", LOOK),\n'
    copy.before(f"{RUNTIME}/cli/__init__.py", '    "ps": ("openllm.cli.ps",', line)
    copy.write("tests/openllm/cli/test_greet.py", COMMAND_TEST)
    copy.before("tests/openllm/cli/test_output.py", '    "ps": "ps",', '    "greet": "greet Ann",\n')


COMMAND = '''"""`openllm greet`: say hello."""

from __future__ import annotations

import click

from openllm.cli.command import Command, Session
from openllm.cli.output import Output, output_option


@click.command("greet", cls=Command)
@click.argument("name")
@output_option
@click.pass_obj
def command(session: Session, name: str, output: str) -> None:
    """Say hello to NAME."""
    out = Output(output, session)
    if output == "json":
        out.json({"greeting": f"Hello, {name}!"})
    else:
        out.data(f"Hello, {name}!")
'''
COMMAND_TEST = '''"""`openllm greet`."""

from collections.abc import Callable

from click.testing import Result


def test_it_greets(run: Callable[..., Result]) -> None:
    """By name."""
    assert run("greet", "Ann").stdout == "Hello, Ann!\\n"
'''


def change_a_status(copy: Copy) -> None:
    """Of a code that one test names."""
    for path, old, new in (
        (
            f"{RUNTIME}/server/errors.py",
            '"engine_out_of_memory": (503, UNAVAILABLE)',
            '"engine_out_of_memory": (500, SERVER)',
        ),
        ("tests/openllm/server/test_engine_faults.py", '503, "engine_out_of_memory"', '500, "engine_out_of_memory"'),
    ):
        file = copy.root / path
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1
        file.write_text(text.replace(old, new), encoding="utf-8")


TASKS: dict[str, Callable[[Copy], None]] = {
    "add a model family": add_a_family,
    "add a backend": add_a_backend,
    "add a route": add_a_route,
    "add a flag or a variable": add_a_flag,
    "add a command": add_a_command,
    "change an HTTP status": change_a_status,
}


def row_of(task: str) -> tuple[list[str], list[str]]:
    """Paths that the row names: those to edit, and those of tests."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    ((edited, tested),) = re.findall(rf"^\| {re.escape(task)} \| (.*) \| (.*) \|$", text, re.M)
    paths = re.compile(r"`([\w./<>-]+/[\w./<>-]*)`")
    return paths.findall(edited), paths.findall(tested)


def means(named: str, path: str) -> bool:
    """Whether a path is the one that is named: whole or by its end, a folder by what stands in it."""
    pattern = re.escape(named).replace("<name>", r"\w+")
    return re.search(rf"(^|/){pattern}{'' if named.endswith('/') else '$'}", path) is not None


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """With the six additions."""
    root = tmp_path_factory.mktemp("copy")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for path in listed.stdout.splitlines():
        if (ROOT / path).is_file():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, root / path)
    made = Copy(root)
    for task, how in TASKS.items():
        made.done(task, how)
    return made


@pytest.mark.parametrize("task", TASKS)
def test_the_files_are_those_of_the_row(copy: Copy, task: str):
    """Nothing was edited that the row does not name, and it names nothing to edit that was not."""
    edited, tests = row_of(task)
    assert {path for path in copy.edited[task] if not any(means(named, path) for named in (*edited, *tests))} == set()
    assert {named for named in edited if not any(means(named, path) for path in copy.edited[task])} == set()


def test_the_tests_of_the_rows_pass(copy: Copy):
    """With what the generators write, and the metadata that an installation makes, everything holds together."""
    for generator in GENERATORS:
        copy.run(f"tools/{generator}")
    copy.run("-c", INSTALLING, str(copy.root / ".installed"))
    changed = {path for paths in copy.edited.values() for path in paths}
    tests = {path for path in changed if re.search(r"^tests/.*/test_\w+\.py$", path)}
    said = copy.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", CONCERNED, *sorted(tests), *TAKING_EVERY)
    assert re.search(r"\d+ passed", said) and "failed" not in said
    assert "TinyStoriesConfig" in copy.run("-c", "import openllm; print(openllm.TinyStoriesConfig)")
    assert "--greeting" in (copy.root / "docs/reference/cli.md").read_text(encoding="utf-8")
