#!/usr/bin/env python3
"""Write docs/reference/cli.md from the commands' own --help: `python3 tools/gen_cli_reference.py`.

`--check` writes nothing and fails where the page is stale. Needs openllm installed; what needs openllm-core alone is
written by tools/gen_reference.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from click.testing import CliRunner

from openllm.cli import ALIASES, COMMANDS, cli

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/reference/cli.md"
WIDTH = 110
INTRODUCTION = f"""# Command line

<!-- Written by tools/gen_cli_reference.py; change the commands, not this page. -->

Every command as its `--help` shows it at {WIDTH} columns. Options, commands and names of families may be written with dashes or
underscores. `openllm start FAMILY --help` adds the family's ids, fields and defaults; [settings](settings.md) lists every
variable and key of the configuration file, [models](models.md) every family.
"""


def help_of(*words: str) -> str:
    """What a command's --help prints."""
    done = CliRunner().invoke(cli, [*words, "--help"], prog_name="openllm", terminal_width=WIDTH, color=False)
    if done.exit_code != 0:
        raise RuntimeError(f"openllm {' '.join(words)} --help ended with {done.exit_code}: {done.stderr}")
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def page() -> str:
    """Text of cli.md."""
    parts = [INTRODUCTION, f"\n## openllm\n\n```text\n{help_of()}\n```\n"]
    for name in COMMANDS:
        others = [alias for alias, command in ALIASES.items() if command == name]
        also = f"Also called {', '.join(f'`{alias}`' for alias in others)}.\n\n" if others else ""
        parts.append(f"\n## openllm {name}\n\n{also}```text\n{help_of(name)}\n```\n")
    return "".join(parts)


def main(arguments: Sequence[str]) -> int:
    """Write, or with `--check` compare."""
    text = page()
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{'stale' if '--check' in arguments else 'written'}: {PAGE.relative_to(ROOT)}")
    if "--check" in arguments:
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
