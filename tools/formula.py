"""Renders Formula/openllm.rb, which `brew tap` reads, from its template and the archives of a release.

    python tools/formula.py VERSION ARCHIVES [--output Formula/openllm.rb]

Run by the release workflow once the archives are made. Must not reach any network: the hashes are those of the files given.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "tools" / "homebrew" / "openllm.rb.in"
DOWNLOADS = "https://github.com/bentoml/OpenLLM/releases/download"

# Homebrew's own kinds of machine: system -> processor -> target of tools/standalone/targets.toml.
PLATFORMS = {
    "macos": {"arm": "aarch64-apple-darwin", "intel": "x86_64-apple-darwin"},
    "linux": {"arm": "aarch64-unknown-linux-gnu", "intel": "x86_64-unknown-linux-gnu"},
}


def main(arguments: list[str] | None = None) -> int:
    """Write the formula; returns the exit code."""
    parser = argparse.ArgumentParser(description="Render the Homebrew formula of a release.")
    parser.add_argument("version")
    parser.add_argument("archives", type=Path)
    parser.add_argument("--output", type=Path, default=ROOT / "Formula" / "openllm.rb")
    asked = parser.parse_args(arguments)
    version = asked.version.removeprefix("v")
    missing = [path.name for path in archives(version, asked.archives).values() if not path.is_file()]
    if missing:
        print(f"error: {asked.archives} lacks {', '.join(missing)}", file=sys.stderr)
        return 1
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(render(version, asked.archives), encoding="utf-8")
    print(asked.output)
    return 0


def archives(version: str, folder: Path) -> dict[str, Path]:
    """Target -> its archive, for the targets that Homebrew has."""
    wanted = [target for processors in PLATFORMS.values() for target in processors.values()]
    return {target: folder / f"openllm-{version}-{target}.tar.gz" for target in wanted}


def render(version: str, folder: Path) -> str:
    """The formula's text.

    Args:
        version: as in the archives' names, `1.2.3`.
        folder: where the archives are.
    """
    files = archives(version, folder)
    blocks: list[str] = []
    for system, processors in PLATFORMS.items():
        lines = [f"  on_{system} do"]
        for processor, target in processors.items():
            lines += [
                f"    on_{processor} do",
                f'      url "{DOWNLOADS}/v{version}/{files[target].name}"',
                f'      sha256 "{hashlib.sha256(files[target].read_bytes()).hexdigest()}"',
                "    end",
            ]
        blocks.append("\n".join([*lines, "  end\n"]))
    text = TEMPLATE.read_text(encoding="utf-8").replace("@platforms@\n", "\n".join(blocks) + "\n")
    text = text.replace("@version@", version)
    assert not re.search(r"@\w+@", text), "the template has a field that nothing fills"
    return text


if __name__ == "__main__":
    sys.exit(main())
