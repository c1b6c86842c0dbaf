"""tools/dev.py and tools/installing.py, the way in: what they decide and print, and how they refuse.

Installing for real is `dev.py` itself.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.packaging.conftest import ROOT

DEV, INSTALLING = ROOT / "tools" / "dev.py", ROOT / "tools" / "installing.py"


def load(file: Path = INSTALLING) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{file.stem}_under_test", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What installs, pointed at an empty checkout, with a pip that only notes what it was asked for."""
    module = load()
    for folder in module.PACKAGES:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    (tmp_path / "constraints").mkdir()
    (tmp_path / "tests").mkdir()
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "CONSTRAINTS", tmp_path / "constraints" / "dev.txt")
    monkeypatch.setattr(module, "TEST_TOOLS", tmp_path / "tests" / "requirements.txt")
    module.CONSTRAINTS.write_text("torch==2.13.0\n", encoding="utf-8")
    module.TEST_TOOLS.write_text("pytest\n", encoding="utf-8")
    module.asked = []
    for installer in ("pip", "fetch"):
        monkeypatch.setattr(module, installer, lambda venv, what, arguments: module.asked.append(arguments))
    monkeypatch.setattr(module, "make_venv", lambda venv: fake_venv(venv))
    monkeypatch.setattr(module, "works", lambda command, env=None: True)
    monkeypatch.setattr(module, "has_nvidia_gpu", lambda: False)
    return module


def fake_venv(venv: Path) -> None:
    (venv / "bin").mkdir(parents=True, exist_ok=True)
    (venv / "bin" / "python").touch()


def run_dev(*arguments: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DEV), *arguments]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False)


def test_alone_it_prints_help():
    """No verb: the verbs, one line each, on stdout, exit code 0."""
    done = run_dev()
    assert done.returncode == 0
    assert all(
        f"dev.py {verb}" in done.stdout
        for verb in ("start", "test", "lint", "types", "docs", "gptq", "binary", "install", "bench")
    )


def test_unknown_verb():
    """A typing slip is named; exit code 2; stdout stays empty."""
    done = run_dev("strat")
    assert done.returncode == 2
    assert "'strat'" in done.stderr
    assert done.stdout == ""


def test_needs_the_standard_library_alone():
    """It runs under an interpreter that sees no installed package at all."""
    done = subprocess.run([sys.executable, "-I", "-S", str(DEV)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_gptqmodel_gets_an_environment_of_its_own(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Exactly what its constraints list, with a CPU torch and nothing resolved; then the three packages."""
    listed = tmp_path / "constraints" / "gptq.txt"
    listed.write_text("torch==2.13.0\ngptqmodel==7.6.0\n", encoding="utf-8")
    monkeypatch.setattr(dev, "GPTQ_CONSTRAINTS", listed)
    dev.install_gptq(tmp_path / ".venv-gptq")
    others, packages = dev.asked
    assert others == ["torch==2.13.0+cpu", "--no-deps", "--requirement", str(listed)]
    assert packages[:2] == ["--no-deps", "--no-build-isolation"] and packages.count("--editable") == 3


def test_the_recipes_get_an_environment_of_their_own(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Exactly what their constraints list, nothing resolved: no torch, and none of our packages."""
    listed = tmp_path / "constraints" / "recipes.txt"
    listed.write_text("openai==2.54.0\n", encoding="utf-8")
    monkeypatch.setattr(dev, "RECIPES_CONSTRAINTS", listed)
    dev.install_recipes(tmp_path / ".venv-recipes")
    assert dev.asked == [["--no-deps", "--requirement", str(listed)]]


def test_the_binary_is_made_of_what_is_listed(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An environment with exactly the packages of its constraints: what is not listed cannot get into the binary."""
    listed = tmp_path / "constraints" / "binary.txt"
    listed.write_text("pyinstaller==6.22.3\n", encoding="utf-8")
    monkeypatch.setattr(dev, "BINARY_CONSTRAINTS", listed)
    dev.install_binary(tmp_path / ".venv-binary")
    assert dev.asked == [["--no-deps", "--requirement", str(listed)]]


def test_second_install_does_nothing(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is installed stays: the second call asks pip for nothing and takes no time."""
    dev.install(tmp_path / ".venv", tools=False)
    first = len(dev.asked)
    monkeypatch.delattr(dev.subprocess, "Popen")  # no process at all is started
    dev.install(tmp_path / ".venv", tools=False)
    assert first > 0
    assert len(dev.asked) == first


@pytest.mark.parametrize("changed", ["openllm-core/pyproject.toml", "constraints/dev.txt"])
def test_a_changed_input_installs_again(dev: ModuleType, tmp_path: Path, changed: str):
    """New dependencies or pins are taken up by the next run."""
    dev.install(tmp_path / ".venv", tools=False)
    before = len(dev.asked)
    (tmp_path / changed).write_text("torch==2.13.0\n# changed\n", encoding="utf-8")
    dev.install(tmp_path / ".venv", tools=False)
    assert len(dev.asked) == 2 * before


def test_a_moved_checkout_installs_again(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An environment remembers absolute paths, so it is of no use after the folder was renamed."""
    before = dev.fingerprint(False)
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(dev, "ROOT", tmp_path / "other")
    assert dev.fingerprint(False) != before


def test_an_interrupted_install_is_taken_up_again(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The stamp is written last: after a Ctrl-C in the middle the next run installs."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    working = dev.pip
    monkeypatch.setattr(dev, "pip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dev.install(tmp_path / ".venv", tools=False)
    monkeypatch.setattr(dev, "pip", working)
    dev.install(tmp_path / ".venv", tools=False)
    assert dev.asked


def test_without_a_gpu_torch_is_the_cpu_build(dev: ModuleType, tmp_path: Path):
    """Where the index offers a CPU build, that one is taken and no other index is named."""
    assert dev.torch_requirement(tmp_path, dev.CONSTRAINTS) == ["torch==2.13.0+cpu"]


def test_where_the_index_has_no_cpu_build(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Else it comes from PyTorch's public index, which is named."""
    monkeypatch.setattr(dev, "works", lambda command, env=None: False)
    assert dev.torch_requirement(tmp_path, dev.CONSTRAINTS)[1:] == ["--extra-index-url", dev.CPU_TORCH_INDEX]


def test_with_a_gpu_torch_is_the_index_s(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A machine with an NVIDIA GPU takes the build with CUDA."""
    monkeypatch.setattr(dev, "has_nvidia_gpu", lambda: True)
    assert dev.torch_requirement(tmp_path, dev.CONSTRAINTS) == ["torch==2.13.0"]


def test_the_download_size_comes_first(dev: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Before anything is fetched the size is said, on stderr."""
    dev.install(tmp_path / ".venv", tools=False)
    said = capsys.readouterr()
    assert "MB to download" in said.err.splitlines()[0]
    assert said.out == ""


def test_a_failed_pip_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """pip's last lines and the path of its whole output stand in the message; its warnings about indexes do not."""
    dev = load()
    fake_venv(tmp_path)
    (tmp_path / "bin" / "python").write_text(
        "#!/bin/sh\necho \"WARNING: Location 'file:///x' is ignored: it is either a non-existing path\"\n"
        "echo 'ERROR: No matching distribution found for nonsense'\nexit 1\n",
        encoding="utf-8",
    )
    (tmp_path / "bin" / "python").chmod(0o755)
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    with pytest.raises(dev.Refused) as refused:
        dev.pip(tmp_path, "packages", ["nonsense"])
    assert "No matching distribution found for nonsense" in str(refused.value)
    assert "is ignored" not in str(refused.value)
    assert str(tmp_path / "install.log") in str(refused.value)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not pip's last fifteen lines, but what to make room for."""
    dev = load()
    fake_venv(tmp_path)
    (tmp_path / "bin" / "python").write_text(
        "#!/bin/sh\necho 'ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device'\nexit 1\n",
        encoding="utf-8",
    )
    (tmp_path / "bin" / "python").chmod(0o755)
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    with pytest.raises(dev.Refused, match=r"the disk is full: .* MB free"):
        dev.pip(tmp_path, "packages", ["x"])


def test_no_network_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """When pip reaches nothing, the message says so and how to name an index or a proxy."""
    dev = load()
    fake_venv(tmp_path)
    (tmp_path / "bin" / "python").write_text(
        "#!/bin/sh\necho \"WARNING: Retrying after connection broken by 'NewConnectionError'\"\nexit 1\n",
        encoding="utf-8",
    )
    (tmp_path / "bin" / "python").chmod(0o755)
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    with pytest.raises(dev.Refused, match="no package index"):
        dev.pip(tmp_path, "packages", ["x"])


def test_python_without_venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A Python without ensurepip (Debian splits it off) gets the apt line."""
    dev = load()
    monkeypatch.setattr(dev.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(dev.Refused, match="apt install python3"):
        dev.make_venv(tmp_path / "nothing")


def test_too_old_python(monkeypatch: pytest.MonkeyPatch):
    """With no newer Python on the PATH the needed version is named."""
    dev = load(DEV)
    monkeypatch.setattr(dev, "OLDEST", (99, 0))
    monkeypatch.setattr(dev.shutil, "which", lambda name: None)
    with pytest.raises(dev.Refused, match="OpenLLM needs"):
        dev.require_python()


def test_an_old_python_can_read_it():
    """It gets as far as saying that it is too old: the files hold no syntax newer than Python 3.7's."""
    for file in (DEV, INSTALLING):
        ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 7))


def test_the_user_s_pip_settings_do_not_send_packages_elsewhere(monkeypatch: pytest.MonkeyPatch):
    """PIP_USER and PIP_TARGET in the environment would install outside the virtual environment."""
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_TARGET", "/somewhere")
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example.org/simple")
    env = load().pip_environment()
    assert env["PIP_USER"] == "0"
    assert "PIP_TARGET" not in env
    assert env["PIP_INDEX_URL"] == "https://index.example.org/simple"


def test_two_at_a_time_wait(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A second run started meanwhile says that it waits, and installs nothing before the first one ends."""
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
         "print('held', flush=True); input()", str(tmp_path / ".venv.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    holder.stdout.readline()
    said: list[str] = []

    def hear(text: str) -> None:
        said.append(text)
        if "waiting" in text:
            assert dev.asked == [] and holder.poll() is None
            holder.communicate(b"\n")

    monkeypatch.setattr(dev, "say", hear)
    dev.install(tmp_path / ".venv", tools=False)
    assert "waiting" in said[0] and dev.asked
    assert holder.wait() == 0


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A uv in an environment, which notes its arguments, the certificates and the cache it was told of, and ends as told."""
    fake_venv(tmp_path / "venv")
    (tmp_path / "venv" / "bin" / "python").write_text(
        "#!/bin/sh\necho \"global.index-url='https://general.example.org/simple'\"\n"
        "echo \"global.cert='/general.pem'\"\necho \"install.find-links='/one /two'\"\n"
        "echo \":env:.index-url='https://nearer.example.org/simple'\"\n",
        encoding="utf-8",
    )
    program = tmp_path / "venv" / "bin" / "uv"
    monkeypatch.delenv("UV_CACHE_DIR", raising=False)
    program.write_text(
        f'#!/bin/sh\necho "$SSL_CERT_FILE" "$UV_CACHE_DIR" "$@" >> {tmp_path}/asked\n[ ! -e {tmp_path}/broken ]\n'
    )
    for file in (program, tmp_path / "venv" / "bin" / "python"):
        file.chmod(0o755)
    return tmp_path / "venv"


def test_uv_looks_where_pip_is_told_to_look(uv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its arguments are made of pip's files and variables, of which the nearer one counts; pip itself is not asked."""
    installing = load()
    monkeypatch.setattr(installing, "ROOT", tmp_path)
    monkeypatch.delattr(installing, "pip")
    installing.fetch(uv, "packages", ["--no-deps", "attrs==1"])
    asked = (tmp_path / "asked").read_text(encoding="utf-8")
    assert asked.startswith(f"/general.pem {tmp_path}/.venv-cache pip install --python {uv}/bin/python ")
    assert "--index-url https://nearer.example.org/simple --find-links /one --find-links /two" in asked
    assert asked.endswith("--no-deps attrs==1\n")


def test_pip_has_the_last_word(
    uv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Where uv fails or is not there, pip installs the same."""
    installing = load()
    monkeypatch.setattr(installing, "ROOT", tmp_path)
    asked: list[list[str]] = []
    monkeypatch.setattr(installing, "pip", lambda venv, what, arguments: asked.append(arguments))
    (tmp_path / "broken").touch()
    installing.fetch(uv, "packages", ["attrs==1"])
    assert asked == [["attrs==1"]]
    assert "uv could not install packages" in capsys.readouterr().err
    (uv / "bin" / "uv").unlink()
    installing.fetch(uv, "packages", ["attrs==2"])
    assert asked == [["attrs==1"], ["attrs==2"]]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("line", ["Downloading torch-2.13.0.whl (191.9 MB)\n", "Downloading torch (191.9MiB)\n"])
def test_progress_names_what_is_fetched(line: str):
    """pip's lines and uv's."""
    progress = load().Progress("packages")
    progress.see(line)
    assert (progress.doing, progress.megabytes) == ("downloading torch (191.9 MB)", 191.9)


@pytest.mark.parametrize(("words", "installed", "pytest_words"), [
    ([], [".venv-test", ".venv-vllm", ".venv-recipes"], ["-n", "2"]),
    (["tests/core", "-k", "schema"], [".venv-test"], ["tests/core", "-k", "schema"]),
    (["--lane", "recipes"], [".venv-test", ".venv-recipes"], ["--lane", "recipes"]),
])  # fmt: skip
def test_the_whole_suite_runs_in_two_workers(
    words: list[str], installed: list[str], pytest_words: list[str], monkeypatch: pytest.MonkeyPatch
):
    """A part of it runs in one, and without environments it has no use for; the one that holds uv is made first."""
    dev, made, became = load(DEV), list[str](), list[list[str]]()
    for name in ("install", "install_vllm", "install_recipes"):
        monkeypatch.setattr(dev.installing, name, lambda venv, **_: made.append(venv.name))
    monkeypatch.setattr(dev, "become", lambda command: became.append(command) or 0)
    assert dev.test(words) == 0
    assert list(dict.fromkeys(made)) == installed
    assert became == [[str(ROOT / ".venv-test/bin/python"), "-m", "pytest", *pytest_words]]
