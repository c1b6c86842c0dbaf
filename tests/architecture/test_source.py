"""Rules on the text of the repository that no linter knows: sizes, secrets of a machine, dangerous calls, docstrings."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for package in ("openllm-core", "openllm-client", "openllm-python")
    for path in (ROOT / package / "src").rglob("*.py")
    if "/proto/" not in path.as_posix()
)
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 70

# Longer than the limits for a reason, which stands beside it.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}

FORBIDDEN_MODULES = {"pickle", "cloudpickle", "marshal", "dill", "shelve", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
# calls that read untrusted bytes unsafely unless told otherwise: name -> argument that makes them safe
GUARDED_CALLS = {
    "yaml.load": "Loader",
    "torch.load": "weights_only",
    "numpy.load": "allow_pickle",
    "np.load": "allow_pickle",
}
WALL_CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.datetime.now", "date.today"}
# where the time of day is what is meant; everything else counts seconds by a clock that nobody can set
WALL_CLOCK_MODULES: dict[str, str] = {
    "openllm_client/_retry.py": "Retry-After may be a date",
    "openllm/access/access.py": "a key that was rotated ends at a date; since when usage is counted",
    "openllm/access/keys.py": "when a key was made",
    "openllm/bundle/sbom.py": "when it was written",
    "openllm/chat.py": "templates ask for today's date",
    "openllm/cli/keys_rotate.py": "a key that was rotated ends at a date",
    "openllm/cli/ps.py": "how long a server has run, from its note",
    "openllm/running.py": "when a server started, for its note",
    "openllm/serialisation/adapters.py": "when an adapter was stored",
    "openllm/serialisation/derived.py": "when a model was made",
    "openllm/serialisation/disk.py": "ages of files, which the file system dates",
    "openllm/serialisation/manifest.py": "when a model was imported",
    "openllm/service/answers.py": "OpenAI's `created`",
    "openllm/service/use_cases.py": "OpenAI's `created`",
}
UNSAFE_CALLS = {"os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load", "tempfile.mktemp"}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tracked_files() -> list[Path]:
    """Files of the repository; in a source archive, which has no git, every file but what tools leave behind."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not any(part.startswith(".venv") or part.endswith("cache__") for part in path.parts)
    ]


def dotted(node: ast.expr) -> str:
    """`torch.load` for the expression of that name; empty for anything that is no plain dotted name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def test_there_is_something_to_check():
    """The patterns above find the source; an empty list would make every rule here pass."""
    assert len(SOURCES) > 20


def test_files_stay_short():
    """A file past the limit asks to be split, or to be listed with its reason."""
    long = {shown(p): n for p in SOURCES if (n := len(p.read_text(encoding="utf-8").splitlines())) > MAX_FILE_LINES}
    assert not {name: lines for name, lines in long.items() if name not in LONG_FILES}
    assert set(LONG_FILES) <= set(long), "listed as long, but no longer is"


def test_functions_stay_short():
    """A function past the limit asks to be split, or to be listed with its reason."""
    long = {
        f"{shown(path)}:{node.name}": length
        for path in SOURCES
        for node in functions(tree_of(path))
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert not {name: lines for name, lines in long.items() if name not in LONG_FUNCTIONS}
    assert set(LONG_FUNCTIONS) <= set(long), "listed as long, but no longer is"


def dangers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what) of each import or call that turns bytes into code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name.partition(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in FORBIDDEN_MODULES:
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            given = {keyword.arg for keyword in node.keywords}
            if name in FORBIDDEN_CALLS | UNSAFE_CALLS:
                yield node.lineno, f"{name}()"
            elif name in GUARDED_CALLS and GUARDED_CALLS[name] not in given:
                yield node.lineno, f"{name}() without {GUARDED_CALLS[name]}="
            elif name.startswith("subprocess.") and any(
                k.arg == "shell" and not (isinstance(k.value, ast.Constant) and k.value.value is False)
                for k in node.keywords
            ):
                yield node.lineno, f"{name}(shell=…)"


def test_nothing_turns_bytes_into_code():
    """No pickle, marshal, eval, exec or shell anywhere in the source."""
    assert [f"{shown(path)}:{line}: {what}" for path in SOURCES for line, what in dangers(tree_of(path))] == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from marshal import loads",
        "eval('1')",
        "exec(x)",
        "torch.load(f)",
        "yaml.load(f)",
        "subprocess.run(c, shell=True)",
    ],
)
def test_the_rule_sees_danger(code: str):
    """Each of these is found, so that the test above can fail."""
    assert list(dangers(ast.parse(code)))


@pytest.mark.parametrize(
    "code", ["re.compile('a')", "torch.load(f, weights_only=True)", "subprocess.run(c)", "model.eval()"]
)
def test_the_rule_lets_harmless_code_be(code: str):
    """Names that only look alike are left alone."""
    assert not list(dangers(ast.parse(code)))


def unsafe_children(tree: ast.Module) -> Iterator[int]:
    """Lines where this interpreter is given `-m` without `-P` before it."""
    for node in ast.walk(tree):
        if not isinstance(node, (ast.List, ast.Tuple, ast.Call)):
            continue
        words = node.args if isinstance(node, ast.Call) else node.elts
        named = [dotted(word) for word in words]
        if "sys.executable" not in named:
            continue
        flags = [word.value for word in words[named.index("sys.executable") :] if isinstance(word, ast.Constant)]
        if "-m" in flags and "-P" not in flags[: flags.index("-m")]:
            yield node.lineno


def test_no_child_imports_from_the_working_directory():
    """Each `python -m` of ours has `-P`: a folder of a downloaded model must not be imported in a package's place.

    The benchmarks and the notebooks, which show the command a reader would type, run where their reader put them.
    """
    asked = [p for p in SOURCES if not {"bench", "notebooks"} & set(p.parts)]
    assert [f"{shown(path)}:{line}" for path in asked for line in unsafe_children(tree_of(path))] == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("[sys.executable, '-m', 'pip']", True),
        ("run(sys.executable, '-m', 'pip')", True),
        ("[sys.executable, '-P', '-m', 'pip']", False),
        ("run(sys.executable, '-P', '-m', 'pip')", False),
        ("['prlimit', sys.executable, '-m', 'pip', '-P']", True),
    ],
)
def test_the_rule_on_children_sees_what_it_must(code: str, found: bool):
    """A list and a call alike, wherever the interpreter stands; `-P` behind the module's name is the module's."""
    assert bool(list(unsafe_children(ast.parse(code)))) is found


def test_every_module_says_what_it_is_for():
    """A module with code starts with a docstring."""
    assert [shown(path) for path in SOURCES if tree_of(path).body and not ast.get_docstring(tree_of(path))] == []


def test_no_environment_is_read_at_import():
    """`os.environ` and `os.getenv` are read inside functions: an import must not depend on when it happens."""
    found: list[str] = []
    for path in SOURCES:
        tree = tree_of(path)
        inside = {id(child) for function in functions(tree) for child in ast.walk(function)}
        inside |= {id(child) for node in ast.walk(tree) if isinstance(node, ast.Lambda) for child in ast.walk(node)}
        for node in ast.walk(tree):
            if id(node) not in inside and isinstance(node, (ast.Attribute, ast.Call)):
                name = dotted(node.func) if isinstance(node, ast.Call) else dotted(node)
                if name in ("os.environ", "os.getenv"):
                    found.append(f"{shown(path)}:{node.lineno}")
    assert found == []


def test_no_trace_of_one_machine():
    """No home folder, checkout path, private index or port of a particular machine stands in a tracked file."""
    patterns = [
        r"/home/[a-z]+/",
        r"/Users/[A-Za-z]+/",
        r"/root/",
        r"/wor" + r"k/",
        r"/opt/(wheels|pypi)",
        r"\b10\.\d+\.\d+\.\d+\b",
    ]
    traces = re.compile("|".join(patterns))
    allowed = re.compile(r"/home/(user|me|bentoml)/|\b10\.0\.0\.\d+|/wor" + r"k/dir")
    found: list[str] = []
    for path in tracked_files():
        if path == Path(__file__):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if traces.search(allowed.sub("", line)):
                found.append(f"{shown(path)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_words_we_do_not_use():
    """No class or function is a Manager, a Helper or a util: such names say nothing."""
    vague = re.compile(r"Manager$|Helper|Util|^(utils?|helpers?|misc)$")
    names = [
        f"{shown(path)}: {node.name}"
        for path in SOURCES
        for node in ast.walk(tree_of(path))
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and vague.search(node.name)
    ]
    files = [shown(path) for path in SOURCES if vague.search(path.stem)]
    assert names + files == []


def test_only_what_means_the_time_of_day_reads_it() -> None:
    """Deadlines, pauses and rates go by a clock that never jumps: a wall clock set back must not make a request wait for ever.

    Loops of asyncio, `time.monotonic` and `time.perf_counter` are such clocks. A module that means the date stands in
    WALL_CLOCK_MODULES with its reason, and goes from there when it no longer does."""
    readers: set[str] = set()
    for path in SOURCES:
        called = {dotted(node.func) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)}
        bare = {
            f"{node.module}.{name.name}"
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.ImportFrom) and node.module == "time"
            for name in node.names
        }
        if (called | bare) & WALL_CLOCKS:
            readers.add(path.as_posix().split("/src/")[1])
    assert readers == set(WALL_CLOCK_MODULES)
