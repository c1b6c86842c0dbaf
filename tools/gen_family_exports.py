#!/usr/bin/env python3
"""Write the config class of each model family, and the lines that export it: `python3 tools/gen_family_exports.py`.

The classes follow the TOML files of openllm_core/families/data; `--check` writes nothing and fails where a file is stale.
Needs openllm-core installed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from openllm_core.config.shape import own_fields_of
from openllm_core.families import registry
from openllm_core.families.spec import FamilySpec

ROOT = Path(__file__).resolve().parent.parent
CORE = "openllm-core/src/openllm_core"
BLOCK = re.compile(r"# <families>.*?# </families>\n", re.S)
WRITTEN = "Written by tools/gen_family_exports.py from families/data; change those files, not this one."


def families() -> list[FamilySpec]:
    """The families of this repository, those of other packages left out."""
    return list(registry.built_in())


def classes(specs: Sequence[FamilySpec]) -> str:
    """Text of config/classes.py."""
    lines = [f'"""The config class of each model family.\n\n{WRITTEN}\n"""\n\nfrom __future__ import annotations\n']
    lines.append("from .llm import LLMConfig\n")
    for spec in specs:
        lines += ["", f'class {spec.config_class}(LLMConfig, family="{spec.name}"):']
        lines.append(f'    """Configuration of {spec.name} models such as {spec.default_id}."""\n')
        lines += [f"    {name}: {fact.type}" for name, fact in own_fields_of(spec).items()]
        if own_fields_of(spec):
            lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def names(specs: Sequence[FamilySpec]) -> str:
    """Text of config/family_names.py."""
    rows = "".join(f'    "{spec.model_name}": "{spec.config_class}",\n' for spec in specs)
    return (
        f'"""Name of each model family, and of its config class.\n\n{WRITTEN}\n"""\n\nfrom __future__ import annotations\n\n'
        f"CONFIG_MAPPING_NAMES: dict[str, str] = {{\n{rows}}}\n"
    )


def block(specs: Sequence[FamilySpec], module: str, table: str, home: str) -> str:
    """The lines of a package's `__init__.py` that export the classes."""
    found = sorted((spec.config_class for spec in specs), key=str.lower)
    imports = "".join(f"        {name},\n" for name in found)
    listed = "".join(f'    "{name}",\n' for name in sorted(found))
    entries = f'{{name: "{home}" for name in __all__ if name.endswith("Config") and name not in {table}}}'
    filled = f"{table}.update({entries})"
    filled = filled if len(filled) <= 120 else f"{table}.update(\n    {entries}\n)"
    return (
        "# <families> written by tools/gen_family_exports.py\n"
        f"if TYPE_CHECKING:\n    from {module} import (\n{imports}    )\n\n"
        f"__all__ += [\n{listed}]\n"
        f"{filled}\n"
        "# </families>\n"
    )


def outputs() -> Mapping[Path, str]:
    """Every file this program keeps -> the text it should have."""
    specs = families()
    blocks = {
        ROOT / CORE / "__init__.py": block(specs, ".config.classes", "_HOME", "config.classes"),
        ROOT / "openllm-python/src/openllm/__init__.py": block(
            specs, "openllm_core.config.classes", "_HOMES", "openllm_core.config.classes"
        ),
    }
    texts = {ROOT / CORE / "config/classes.py": classes(specs), ROOT / CORE / "config/family_names.py": names(specs)}
    for file, text in blocks.items():
        before = file.read_text(encoding="utf-8")
        if not BLOCK.search(before):
            raise SystemExit(f"{file}: has no lines '# <families>' to '# </families>'")
        texts[file] = BLOCK.sub(lambda _, text=text: text, before)
    return texts


def main(arguments: Sequence[str]) -> int:
    """Write, or with `--check` compare."""
    stale = [file for file, text in outputs().items() if not file.exists() or file.read_text(encoding="utf-8") != text]
    for file in stale:
        print(f"{'stale' if '--check' in arguments else 'written'}: {file.relative_to(ROOT)}")
        if "--check" not in arguments:
            file.write_text(outputs()[file], encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
