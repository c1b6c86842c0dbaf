#!/usr/bin/env python3
"""Write docs/reference/settings.md, models.md and the README's table of models: `python3 tools/gen_reference.py`.

Settings come from openllm_core.options and the configuration fields, models from openllm_core/families/data; `--check`
writes nothing and fails where a page is stale. Needs openllm-core installed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from openllm_core.config.click_options import without_none
from openllm_core.config.env import field_env_key
from openllm_core.config.generation import GenerationConfig, SamplingConfig
from openllm_core.config.shape import own_fields_of
from openllm_core.families import registry
from openllm_core.families.spec import FamilySpec
from openllm_core.options import EngineOptions, ServerOptions, StoreOptions
from openllm_core.serde import rule_of
from openllm_core.settings import flag_of, settings_of

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs/reference"
README = ROOT / "README.md"
TABLE_BEGIN, TABLE_END = "<!-- models, written by tools/gen_reference.py -->", "<!-- end of models -->"
DATA = ROOT / "openllm-core/src/openllm_core/families/data"
WRITTEN = "<!-- Written by tools/gen_reference.py; change what it reads, not this page. -->"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def code(text: str) -> str:
    """Text as code; nothing stays nothing."""
    return f"`{text}`" if text else ""


def shown(value: Any) -> str:
    """A default as a reader would type it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or isinstance(value, attrs.Factory) or value in ("", ()):  # type: ignore[arg-type]
        return ""
    return code(f"{value:g}" if isinstance(value, float) else str(value))


def range_of(ge: float | None, le: float | None, choices: Sequence[Any] | None, gt: float | None = None) -> str:
    """Allowed values in words."""
    if choices:
        return ", ".join(code(str(choice)) for choice in choices)
    low = f"at least {ge:g}" if ge is not None else f"above {gt:g}" if gt is not None else ""
    high = f"at most {le:g}" if le is not None else ""
    return ", ".join(part for part in (low, high) if part)


def kind_of(hint: Any) -> str:
    """A type in the words of its annotation."""
    bare = without_none(hint)
    return (
        bare.__name__ if isinstance(bare, type) and not hasattr(bare, "__args__") else str(bare).replace("typing.", "")
    )


# -- settings -----------------------------------------------------------------------------------------------------


def settings_page() -> str:
    """Text of settings.md."""
    parts = [
        f"# Settings\n\n{WRITTEN}\n\nEvery setting of the program. What is typed beats the environment, that the configuration file, "
        "that the model family, that the default; `openllm env` shows each value and where it came from. A configuration "
        "file (`--config`) takes the names in the first column.\n"
    ]
    for title, cls in (("Engine", EngineOptions), ("Server", ServerOptions), ("Store", StoreOptions)):
        parts.append(f"\n## {title}\n\n" + options_table(cls))
    parts.append(
        "\n## Generation fields\n\nDefaults of requests. Values are JSON: `0.2`, `true`, `[1, 2]`. A family may have other "
        "defaults ([models](models.md)). `OPENLLM_CONFIG` sets many at once, as a JSON object of fields; a field's own "
        "variable beats it.\n\n" + fields_table(GenerationConfig, "generation")
    )
    parts.append("\n## Sampling fields\n\n" + fields_table(SamplingConfig, "sampling"))
    parts.append("\n## Fields of one family\n\n" + own_table(families()))
    return "".join(parts)


def options_table(cls: type[attrs.AttrsInstance]) -> str:
    """Every setting of an options class that a user can give."""
    rows: list[list[str]] = []
    for name, (attribute, fact) in settings_of(cls).items():
        flag = flag_of(name, fact)
        if not flag and fact.env is None:
            continue  # resolved by the program itself
        flags = ", ".join(code(text) for text in (fact.short, flag) if text)
        note = f"{fact.help} Counts only when typed." if fact.typed_only else fact.help
        allowed = range_of(fact.ge, fact.le, fact.choices)
        rows.append([code(name), flags, code(fact.env or ""), shown(attribute.default), allowed, note])
    return table(["Name", "Flag", "Variable", "Default", "Allowed", "Meaning"], rows)


def fields_table(cls: type[attrs.AttrsInstance], suffix: str) -> str:
    """Every field of a configuration class."""
    attrs.resolve_types(cls)
    rows = [
        [
            code(field.name), code(field_env_key(field.name, suffix)), code(kind_of(field.type)), shown(field.default),
            range_of(rule_of(field).ge, rule_of(field).le, rule_of(field).choices, rule_of(field).gt), rule_of(field).help,
        ]
        for field in attrs.fields(cls)
    ]  # fmt: skip
    return table(["Field", "Variable", "Type", "Default", "Allowed", "Meaning"], rows)


def own_table(specs: Sequence[FamilySpec]) -> str:
    """Own fields of the families that have some of their own."""
    rows = [
        [spec.name, code(name), code(field_env_key(name)), code(fact.type), shown(fact.default),
         range_of(None, None, fact.choices), fact.help]
        for spec in specs
        for name, fact in spec.own_fields.items()
    ]  # fmt: skip
    return table(["Family", "Field", "Variable", "Type", "Default", "Allowed", "Meaning"], rows)


# -- models -------------------------------------------------------------------------------------------------------


def families() -> list[FamilySpec]:
    """The families of this repository, those of other packages left out."""
    found = (re.search(r'^name = "(.+)"$', file.read_text(encoding="utf-8"), re.M) for file in DATA.glob("*.toml"))
    names = {match[1] for match in found if match}
    return [spec for spec in registry.all() if spec.name in names]


def models_page() -> str:
    """Text of models.md."""
    rows = [
        [f"[{spec.name}](#{spec.name})", ", ".join(map(code, spec.architectures)), code(spec.default_id),
         ", ".join(spec.backends), "yes" if spec.trust_remote_code else "", ", ".join(map(code, spec.requirements))]
        for spec in families()
    ]  # fmt: skip
    head = ["Family", "Architectures", "Default model", "Backends", "Needs `--trust-remote-code`", "Needs packages"]
    return (
        f"# Models\n\n{WRITTEN}\n\nWhat is known of model families. A model of no family here is served too where its "
        "architecture is known to a backend. `unverified` marks facts that were not checked against a source.\n\n"
        + table(head, rows)
        + "".join(family_section(spec) for spec in families())
    )


def readme() -> str:
    """The README with its table of families, which is what `openllm models` shows."""
    rows = [
        [f"[{spec.name}](docs/reference/models.md#{spec.name})", code(spec.architectures[0]), code(spec.default_id),
         code(" ".join(["pip install openllm", *spec.requirements])), ", ".join(spec.backends)]
        for spec in families()
    ]  # fmt: skip
    text = README.read_text(encoding="utf-8")
    before, mark, rest = text.partition(TABLE_BEGIN)
    _, end, after = rest.partition(TABLE_END)
    if not (mark and end):
        raise ValueError(f"README.md lacks {TABLE_BEGIN} or {TABLE_END}")
    made = table(["LLM", "Architecture", "Default model", "Installation", "Runtime"], rows)
    return f"{before}{mark}\n\n{made}\n{end}{after}"


def family_section(spec: FamilySpec) -> str:
    """Everything about one family."""
    parts = [f"\n## {spec.name}\n\n"]
    if spec.url:
        parts.append(f"Origin: {spec.url}. ")
    parts.append(f"Config class: `{spec.config_class}`. Clients of 0.3.5 see it as `{spec.compat_family}`.\n\n")
    parts.append("Ids: " + ", ".join(map(code, spec.model_ids)) + ".\n")
    defaults: Mapping[str, Any] = {**spec.generation, **spec.sampling}
    if defaults:
        stated = ", ".join(f"`{name}` {shown(value)}" for name, value in defaults.items())
        parts.append(f"\nDefaults of its own: {stated}.\n")
    if own_fields_of(spec):
        parts.append("\nFields of its own: " + ", ".join(map(code, own_fields_of(spec))) + ".\n")
    for kind, settings in spec.fine_tune.items():
        stated = ", ".join(f"`{name}` {code(str(value))}" for name, value in settings.items())
        parts.append(f"\nFine-tuning with {kind}: {stated}.\n")
    if spec.prompt.formats:
        on = "" if spec.prompt.on_by_default else ", used when asked for"
        parts.append(f"\nPrompt template{on}:\n")
        parts += [f"\n{name}:\n\n```text\n{text.rstrip()}\n```\n" for name, text in spec.prompt.formats.items()]
    if spec.prompt.fill_in is not None:
        parts.append(f"\n`{spec.prompt.fill_in.marker}` in a prompt is filled in: `{spec.prompt.fill_in.text}`.\n")
    if spec.prompt.history is not None:
        parts.append(
            f"\nPast turns, then the new one:\n\n```text\n{spec.prompt.history.turn}{spec.prompt.history.last}\n```\n"
        )
    sources = "; ".join(
        f"{'all others' if path == '*' else code(path)}: {source}" for path, source in spec.sources.items()
    )
    parts.append(f"\nSources: {sources}.\n")
    return "".join(parts)


def main(arguments: Sequence[str]) -> int:
    """Write, or with `--check` compare."""
    pages = {PAGES / "settings.md": settings_page(), PAGES / "models.md": models_page(), README: readme()}
    stale = {
        file: text for file, text in pages.items() if not file.exists() or file.read_text(encoding="utf-8") != text
    }
    for file, text in stale.items():
        print(f"{'stale' if '--check' in arguments else 'written'}: {file.relative_to(ROOT)}")
        if "--check" not in arguments:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
