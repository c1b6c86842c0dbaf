#!/usr/bin/env python3
"""The documentation as a site: `hatch run docs-site` builds it into build/site, `hatch run docs-site serve` shows it.

Pages are written for the repository's browser: their links lead to files. This program copies them to build/site-pages, where
links to other pages stay links and links to source become links to the repository, then has zensical (zensical.toml) make the
site of them, warnings being errors. Uses the standard library and zensical; must not know what a page says.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "zensical.toml"
# Pages that do not lie in docs/: where they lie -> where they stand on the site.
ELSEWHERE = {
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "STYLE.md": "style.md",
    ".github/SECURITY.md": "security.md",
    "openllm-client/README.md": "clients/python.md",
    "openllm-node/README.md": "clients/typescript.md",
}
SHOWN_AS_THEY_ARE = (".svg", ".png", ".css")  # what pages show; every other file is a link to the repository
FENCE = re.compile(r"^(?P<indent> *)```.*?^(?P=indent)``` *$", re.M | re.S)
COMMENT = re.compile(r"^ *<!--(?:(?!-->).)*-->\n|<!--(?:(?!-->).)*-->", re.M | re.S)
LINK = re.compile(r"(?P<before>!?\[[^\]]*\]\()(?P<target>[^)\s]+)(?P<after>\))")


class BadLink(Exception):
    """A link of a page leads nowhere."""


def pages(root: Path = ROOT) -> dict[PurePosixPath, PurePosixPath]:
    """Every page: its path in the repository -> its path on the site."""
    found = {path.relative_to(root): path.relative_to(root / "docs") for path in (root / "docs").rglob("*.md")}
    found |= {Path(source): Path(shown) for source, shown in ELSEWHERE.items() if (root / source).exists()}
    for path in (root / "examples").rglob("README.md"):
        parts = path.relative_to(root).parent.parts
        found[path.relative_to(root)] = (
            Path("examples", "index.md") if len(parts) == 1 else Path(*parts[:2], "index.md")
        )
    return {PurePosixPath(source.as_posix()): PurePosixPath(shown.as_posix()) for source, shown in found.items()}


def repository(root: Path = ROOT) -> str:
    """Address under which the repository's files can be read."""
    return tomllib.loads((root / CONFIG).read_text(encoding="utf-8"))["project"]["extra"]["repository"]


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """A page with `change` applied to all of it but its code blocks."""
    kept: list[str] = []
    end = 0
    for block in FENCE.finditer(text):
        kept += [change(text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*kept, change(text[end:])])


def page_for_site(source: PurePosixPath, root: Path = ROOT) -> str:
    """Text of one page, its links as the site needs them, without the comments that are for tools.

    Raises:
        BadLink: a link to a file that is not there.
    """
    known, address = pages(root), repository(root)

    def led(link: re.Match[str]) -> str:
        target, _, anchor = link["target"].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return link[0]
        path = PurePosixPath(os.path.normpath(source.parent / target))
        if path in known:
            shown = os.path.relpath(known[path], known[source].parent)
        elif not (root / path).exists():
            raise BadLink(f"{source}: nothing is at {link['target']}")
        elif path.suffix in SHOWN_AS_THEY_ARE and path.parts[0] == "docs":
            shown = os.path.relpath(PurePosixPath(*path.parts[1:]), known[source].parent)
        else:
            shown = f"{address}/{'tree' if (root / path).is_dir() else 'blob'}/main/{path}"
        return f"{link['before']}{shown}{'#' * bool(anchor)}{anchor}{link['after']}"

    text = (root / source).read_text(encoding="utf-8")
    return outside_code(text, lambda part: LINK.sub(led, COMMENT.sub("", part)))


def stage(target: Path, root: Path = ROOT) -> None:
    """Write what zensical reads: every page for the site, and the files that pages show."""
    shutil.rmtree(target, ignore_errors=True)
    for source, shown in pages(root).items():
        (target / shown).parent.mkdir(parents=True, exist_ok=True)
        (target / shown).write_text(page_for_site(source, root), encoding="utf-8")
    for path in (root / "docs").rglob("*"):
        if path.suffix in SHOWN_AS_THEY_ARE:
            copy = target / path.relative_to(root / "docs")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def build(folder: Path = ROOT, root: Path = ROOT) -> int:
    """Make the site of the pages of `root` in the folder `build` of `folder`; not 0 when zensical warns."""
    try:
        stage(folder / "build" / "site-pages", root)
    except BadLink as error:
        print(error, file=sys.stderr)
        return 1
    if folder != root:
        shutil.copyfile(root / CONFIG, folder / CONFIG)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", str(folder / CONFIG)]
    return subprocess.run(command, cwd=folder, check=False).returncode


def serve(port: int = 8000) -> int:
    """Show what was built on 127.0.0.1 until stopped."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(ROOT / "build" / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"The documentation is on http://127.0.0.1:{port} until you press Ctrl-C.", file=sys.stderr)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


def main(argv: list[str]) -> int:
    """`build`, the default, or `serve`, which builds first."""
    if argv not in ([], ["build"], ["serve"]):
        print(__doc__, file=sys.stderr)
        return 2
    return build() or (serve() if argv == ["serve"] else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
