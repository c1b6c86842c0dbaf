#!/usr/bin/env python3
"""Lines and tokens per file and per folder, so that growth is seen: `python3 tools/loc.py [FOLDER...] [-o json]`.

Tokens are Python's own (comments and docstrings count as one each); files of other kinds have lines alone. Uses the
standard library; counts what git tracks, or every file where there is no git.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tokenize
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE = {".py", ".pyi", ".toml", ".js", ".css", ".html", ".proto", ".jinja", ".sh"}
SILENT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING}


@dataclass
class Count:
    """Size of a file or folder.

    Attributes:
        lines: all lines, blank ones included.
        code_lines: lines that hold a token other than a comment.
        tokens: Python tokens, layout aside.
    """

    files: int = 0
    lines: int = 0
    code_lines: int = 0
    tokens: int = 0

    def add(self, other: Count) -> None:
        """Sum in place."""
        self.files += other.files
        self.lines += other.lines
        self.code_lines += other.code_lines
        self.tokens += other.tokens


def measure(path: Path) -> Count:
    """Count one file; what is not valid Python counts its lines."""
    text = path.read_text(encoding="utf-8", errors="replace")
    count = Count(files=1, lines=len(text.splitlines()))
    if path.suffix not in (".py", ".pyi"):
        count.code_lines = sum(1 for line in text.splitlines() if line.strip())
        return count
    busy: set[int] = set()
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in SILENT:
                continue
            count.tokens += 1
            if token.type != tokenize.COMMENT:
                busy.update(range(token.start[0], token.end[0] + 1))
    except (tokenize.TokenError, SyntaxError, IndentationError):
        count.tokens = 0
    count.code_lines = len(busy)
    return count


def sources(folders: list[Path]) -> list[Path]:
    """Code files below the folders, sorted."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [
            path for path in ROOT.rglob("*") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
        ]
    inside = [path for path in paths if path.suffix in CODE and path.is_file()]
    return sorted(path for path in inside if any(path == folder or folder in path.parents for folder in folders))


def tabulate(paths: list[Path]) -> tuple[dict[str, Count], dict[str, Count], Count]:
    """Counts by file, by folder (each folder holds what is below it), and in all."""
    files: dict[str, Count] = {}
    folders: dict[str, Count] = defaultdict(Count)
    total = Count()
    for path in paths:
        relative = path.relative_to(ROOT)
        files[relative.as_posix()] = count = measure(path)
        total.add(count)
        for parent in list(relative.parents)[:-1]:
            folders[parent.as_posix()].add(count)
    return files, dict(sorted(folders.items())), total


def main(argv: list[str]) -> int:
    """Print the table, or JSON with `-o json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, default=[ROOT])
    parser.add_argument("-o", "--output", choices=["pretty", "json"], default="pretty")
    given = parser.parse_args(argv)
    files, folders, total = tabulate(sources([folder.resolve() for folder in given.folders]))
    if given.output == "json":
        groups = {"files": files, "folders": folders}
        data = {group: {name: asdict(count) for name, count in counts.items()} for group, counts in groups.items()}
        print(json.dumps({**data, "total": asdict(total)}, indent=1))
        return 0
    print(f"{'lines':>7} {'code':>7} {'tokens':>8}  {'tokens/line':>11}")
    for heading, counts in (("files", files), ("folders", folders), ("total", {f"{total.files} files": total})):
        print(f"-- {heading}")
        for name, count in counts.items():
            density = count.tokens / count.code_lines if count.code_lines else 0
            print(f"{count.lines:>7} {count.code_lines:>7} {count.tokens:>8}  {density:>11.1f}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
