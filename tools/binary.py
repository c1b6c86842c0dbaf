"""The standalone binary of this machine's kind: made with PyInstaller, packed, and tried as a person would try it.

    python tools/binary.py build [--output dist]       make the archive, then try it
    python tools/binary.py try ARCHIVE                 unpack one in an empty folder and use it
    python tools/binary.py matrix                      the targets of a release, as JSON for its workflow
    python tools/binary.py release TARGET              build TARGET, in its container where it has one

`python3 tools/dev.py binary` makes the environment that has PyInstaller and runs the first. What the binary does is
tools/standalone/entry.py's matter; the targets stand in tools/standalone/targets.toml.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import version as versions

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ROOT / "tools" / "standalone" / "targets.toml"
SOURCES = [ROOT / folder / "src" for folder in ("openllm-core", "openllm-client", "openllm-python")]
LIMIT_BYTES = 40_000_000  # of the archive, and of what it holds when unpacked
EPOCH = 1_580_601_600  # the time hatchling gives the files of a wheel, where SOURCE_DATE_EPOCH says nothing else
UNUSED = (
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pip",
    "pydoc_data",
    "setuptools",
    "sqlite3",
    "test",
    "tkinter",
    "turtledemo",
)
NOT_OURS_TO_GIVE = (
    "readline",
    "_gdbm",
)  # libraries under the GPL: who passes on the binary would owe more than its licence says

# What is tried in an empty folder, with an empty home and no runtime: (words, exit code, text on stdout or stderr).
TRIALS: list[tuple[tuple[str, ...], int, str]] = [
    (("--version",), 0, "openllm, "),
    (("--help",), 0, "Serve and ask"),
    (("start", "--help"), 0, "--max-model-len"),
    (("chat", "--help"), 0, "--endpoint"),
    (("models",), 0, "smollm"),
    (("models", "-o", "json"), 0, '"default_id"'),
    (("completion", "bash"), 0, "complete"),
    (("query", "hello", "--endpoint", "http://127.0.0.1:9"), 69, "No connection to http://127.0.0.1:9"),
    (("embed", "hello", "--endpoint", "http://127.0.0.1:9"), 69, "No connection"),
    (("query", "hello", "--server-type", "grpc"), 78, "gRPC needs the OpenLLM runtime"),
    (("start",), 78, "python3 -m venv"),
    (("strat",), 2, "Did you mean start"),
]


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    parser = argparse.ArgumentParser(description="The standalone binary: build, try, matrix, release.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("build", "release"):
        adding = verbs.add_parser(verb)
        adding.add_argument("--output", type=Path, default=ROOT / "dist")
        if verb == "release":
            adding.add_argument("target", choices=list(targets()))
    verbs.add_parser("try").add_argument("archive", type=Path)
    verbs.add_parser("matrix")
    asked = parser.parse_args(arguments)
    if asked.verb == "matrix":
        print(json.dumps({"include": [{"target": name, "runner": of["runner"]} for name, of in targets().items()]}))
        return 0
    if asked.verb == "try":
        return attempt(asked.archive)
    if asked.verb == "release":
        return subprocess.run(release_command(asked.target, asked.output.resolve()), cwd=ROOT, check=False).returncode
    archive = build(asked.output.resolve())
    print(f"{archive}: {archive.stat().st_size / 1e6:.1f} MB")
    return attempt(archive)


# -- which


def targets() -> dict[str, dict[str, str]]:
    """Target triple -> where its binary is made."""
    return tomllib.loads(TARGETS.read_text(encoding="utf-8"))


def this_target() -> str:
    """The target that this Python is of; it, not the kernel, decides (a 32-bit container runs on a 64-bit kernel)."""
    machine = {"amd64": "x86_64", "arm64": "aarch64", "ppc64le": "powerpc64le"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    if machine == "x86_64" and struct.calcsize("P") == 4:
        machine = "i686"
    if sys.platform == "darwin":
        return f"{machine}-apple-darwin"
    libc = "musl" if "musl" in str(sysconfig.get_config_var("HOST_GNU_TYPE")) else "gnu"
    return f"{machine}-unknown-linux-{libc}"


def release_command(target: str, output: Path) -> list[str]:
    """The command that makes a target's archive on its runner: dev.py itself, or dev.py in a container."""
    of = targets()[target]
    build = ["tools/dev.py", "binary", "--output"]
    if "image" not in of:
        return [sys.executable, *build, str(output)]
    first = of.get("packages", "true")
    script = f"{first} && git config --global --add safe.directory /src && exec python3 {' '.join(build)} /output"
    mounts = ["--volume", f"{ROOT}:/src", "--volume", f"{output}:/output", "--workdir", "/src"]
    return ["docker", "run", "--rm", "--platform", of["platform"], *mounts, of["image"], "sh", "-ec", script]


# -- making it


def build(output: Path) -> Path:
    """Make the archive `openllm-VERSION-TARGET.tar.gz` in `output`."""
    name = f"openllm-{versions.version()}-{this_target()}"
    with tempfile.TemporaryDirectory(prefix="openllm-binary-") as scratch:
        work = Path(scratch)
        folder = freeze(work)
        folder = folder.rename(folder.with_name(name))
        shutil.copy(ROOT / "LICENSE", folder / "LICENSE")
        gather_licences(folder / "licences")
        output.mkdir(parents=True, exist_ok=True)
        return pack(folder, output / f"{name}.tar.gz")


def freeze(work: Path) -> Path:
    """The folder that PyInstaller makes: the program `openllm`, and what it needs in `_internal`.

    A folder and not one file: one file unpacks itself at every start, and stands between a terminal and the program as
    a second process that hands every signal on, so that one Ctrl-C arrives twice.
    """
    info = write_metadata(work / "metadata")
    families = SOURCES[0] / "openllm_core" / "families" / "data"
    words = ["--name", "openllm", "--onedir", "--console", "--noconfirm", "--clean", "--log-level", "WARN"]
    words += ["--distpath", str(work / "dist"), "--workpath", str(work / "build"), "--specpath", str(work)]
    words += ["--add-data", f"{families}:openllm_core/families/data", "--add-data", f"{info}:{info.name}"]
    words += ["--strip"] if sys.platform == "linux" and shutil.which("strip") else []
    for source in SOURCES:
        words += ["--paths", str(source)]
    for module in carried():
        words += ["--hidden-import", module]
    for module in (*UNUSED, *NOT_OURS_TO_GIVE):
        words += ["--exclude-module", module]
    environ = {
        "SOURCE_DATE_EPOCH": str(EPOCH),
        **os.environ,
        "PYTHONHASHSEED": "1",
        "PYINSTALLER_CONFIG_DIR": str(work / "cache"),
    }
    entry = ROOT / "tools" / "standalone" / "entry.py"
    subprocess.run([sys.executable, "-m", "PyInstaller", *words, str(entry)], env=environ, check=True, cwd=work)
    return work / "dist" / "openllm"


def carried() -> list[str]:
    """Modules that are imported by name: every command, and all of the client and the vocabulary but gRPC."""
    roots = [SOURCES[0] / "openllm_core", SOURCES[1] / "openllm_client", SOURCES[2] / "openllm" / "cli"]
    found: list[str] = []
    for root, source in zip(roots, SOURCES, strict=True):
        for path in sorted(root.rglob("*.py")):
            module = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
            if not module.startswith(("openllm_core.proto", "openllm_client._grpc")):
                found.append(module)
    return found


def write_metadata(folder: Path) -> Path:
    """What `importlib.metadata` finds of `openllm` in the binary: its name and version, nothing of this machine."""
    info = folder / f"openllm-{versions.version()}.dist-info"
    info.mkdir(parents=True)
    text = f"Metadata-Version: 2.4\nName: openllm\nVersion: {versions.version()}\nLicense-Expression: Apache-2.0\n"
    (info / "METADATA").write_text(text, encoding="utf-8")
    return info


def gather_licences(folder: Path) -> None:
    """The licence texts of Python and of every package in the environment that the binary is made in."""
    for distribution in metadata.distributions():
        if distribution.metadata["Name"].lower() in UNUSED:
            continue
        for file in distribution.files or []:
            if ".dist-info" in str(file) and any(word in file.name.upper() for word in ("LICEN", "COPYING", "NOTICE")):
                home = folder / distribution.metadata["Name"].lower()
                home.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(distribution.locate_file(file)), home / file.name)
    python = Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"
    if python.exists():
        shutil.copyfile(python, folder / "python.txt")


def pack(folder: Path, archive: Path) -> Path:
    """Write a folder as .tar.gz: names sorted, no owner, one time for all, so that the same files give the same bytes."""
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", EPOCH))

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = epoch
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        return entry

    with (
        open(archive, "wb") as file,
        gzip.GzipFile("", "wb", mtime=epoch, fileobj=file) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in [folder, *sorted(folder.rglob("*"))]:
            tar.add(path, path.relative_to(folder.parent).as_posix(), recursive=False, filter=plain)
    return archive


# -- trying it


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack an archive; the program in it."""
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.0 to 3.11.3 have none
        tar.extractall(folder)
    return folder / archive.name.removesuffix(".tar.gz") / "openllm"


def attempt(archive: Path) -> int:
    """Use the binary in an empty folder, with an empty home; print what was wrong, its size and the time it takes to start."""
    with tempfile.TemporaryDirectory(prefix="openllm-binary-") as scratch:
        empty = Path(scratch) / "empty"
        empty.mkdir()
        program = unpack(archive, Path(scratch))
        failures = [line for trial in TRIALS for line in try_one(program, empty, *trial)]
        sizes = {"the archive": archive.stat().st_size, "unpacked": folder_bytes(program.parent)}
        failures += [f"{what} is {size / 1e6:.1f} MB" for what, size in sizes.items() if size > LIMIT_BYTES]
        if left := sorted(path.name for path in empty.rglob("*")):
            failures.append(f"it left files behind: {left}")
        if ROOT.as_posix().encode() in b"".join(
            path.read_bytes() for path in program.parent.rglob("*") if path.is_file()
        ):
            failures.append(f"it names {ROOT}, where it was made")
        seconds = statistics.median(start_s(program, empty) for _ in range(5))
    told = ", ".join(f"{what} {size / 1e6:.1f} MB" for what, size in sizes.items())
    print(f"{told}; `openllm --version` takes {seconds * 1000:.0f} ms (median of 5)")
    for line in failures:
        print(f"FAILED {line}", file=sys.stderr)
    return 1 if failures else 0


def bare(home: Path) -> dict[str, str]:
    """The environment of a person who has set nothing."""
    return {"HOME": str(home), "PATH": "/usr/bin:/bin"}


def try_one(program: Path, home: Path, words: tuple[str, ...], code: int, text: str) -> Iterable[str]:
    """What was wrong with one command."""
    done = subprocess.run(
        [program, *words], env=bare(home), cwd=home, capture_output=True, text=True, timeout=60, check=False
    )
    said = done.stdout + done.stderr
    if done.returncode != code or text not in said or "Traceback" in said:
        yield f"`openllm {' '.join(words)}` ended with {done.returncode}, not {code} and {text!r}:\n{said[-1500:]}"


def start_s(program: Path, home: Path) -> float:
    """Seconds that `openllm --version` takes."""
    began = time.perf_counter()
    subprocess.run([program, "--version"], env=bare(home), cwd=home, capture_output=True, check=True)
    return time.perf_counter() - began


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


if __name__ == "__main__":
    sys.exit(main())
