"""`openllm models [FAMILY]`: what can be served, and what is on this machine already, with path and size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openllm.cli import complete
from openllm.cli.command import Command, Session
from openllm.cli.options import read_settings
from openllm.cli.output import NARROW, WIDE, Output, output_option, size_text, two_lines
from openllm_core.families import registry
from openllm_core.families.spec import FamilySpec

if TYPE_CHECKING:
    from openllm.serialisation import StoreEntry


@click.command("models", cls=Command)
@click.argument("family", required=False, shell_complete=complete.family)
@click.option("--show-available", is_flag=True, help="The models on this machine alone; with -o json, their tags too.")
@click.option("--machine", is_flag=True, hidden=True)
@output_option
@click.pass_obj
def command(session: Session, family: str | None, show_available: bool, machine: bool, output: str) -> None:
    """List model families, and the models on this machine.

    With FAMILY, all of its ids. Models outside the families are served too, by folder or hub id, when transformers knows
    their architecture.
    """
    out = Output("json" if machine else output, session)
    families = [registry.find(family)] if family else list(registry.all())
    if out.format == "json":
        data = as_data(families)
        if show_available:
            data |= local_data()
        elif not family:  # a model of no family stands in no family's `stored`
            data["store"] = local_data()["store"]
        out.json(data)
    elif out.format == "porcelain":
        for name in [entry.tag for entry in _stored()] if show_available else [spec.name for spec in families]:
            out.data(name)
    elif family:
        _show_family(out, families[0])
    else:
        _show_stored(out, _stored())
        if not show_available:
            _show_families(out, families)


def _stored() -> list[StoreEntry]:
    from openllm.serialisation import list_models

    return list_models(read_settings().store)


def runtimes(spec: FamilySpec) -> list[str]:
    """Backends that run the family and are installed here."""
    from openllm.backends.registry import names

    installed = names()
    return [name for name in spec.backends if name in installed]


def installation(spec: FamilySpec) -> str:
    """What to hand to `pip install` so that the family runs."""
    return " ".join(["openllm", *spec.requirements])


def unverified(spec: FamilySpec) -> list[str]:
    """Facts of the family that were not checked against a source, as dotted paths; `*` is all that have no own source."""
    return [path for path, source in spec.sources.items() if source.startswith("unverified")]


def as_data(families: Sequence[FamilySpec] | None = None) -> dict[str, Any]:
    """Families by name, as JSON has them, with the stored models of each; all of them unless given.

    `backend` are those installed here; `cpu` and `gpu` those that run the family there, once installed.
    """
    stored: dict[str | None, list[dict[str, Any]]] = {}
    for entry in _stored():
        facts = {"tag": entry.tag, "size_bytes": entry.size_bytes, "path": str(entry.path)}
        stored.setdefault(entry.family, []).append(facts)
    return {
        spec.name: {
            "architecture": spec.architectures[0],
            "model_id": spec.model_ids,
            "default_id": spec.default_id,
            "backend": runtimes(spec),
            "cpu": list(spec.backends),
            "gpu": list(spec.backends),
            "installation": installation(spec),
            "verified": spec.verified,
            "unverified": unverified(spec),
            "stored": stored.get(spec.name, []),
        }
        for spec in (registry.all() if families is None else families)
    }


def local_data() -> dict[str, Any]:
    """What is on this machine: tags by family (`local`), and each model with id, size in bytes and path (`store`)."""
    tags: dict[str, list[str]] = {}
    entries: list[dict[str, Any]] = []
    for entry in _stored():
        tags.setdefault(entry.family or "other", []).append(entry.tag)
        entries.append(
            {
                "tag": entry.tag,
                "model_id": entry.model_id,
                "family": entry.family,
                "size_bytes": entry.size_bytes,
                "path": str(entry.path),
                "created": entry.created.isoformat(),
            }
        )
    return {"local": tags, "store": entries}


# -- for people ---------------------------------------------------------------------------------------------------


def _show_stored(out: Output, entries: list[StoreEntry]) -> None:
    if not entries:
        out.say("No models on this machine yet; `openllm start` fetches the default one.\n", dim=True)
        return
    rows: list[tuple[Any, ...]] = [
        (e.model_id, e.family or "-", size_text(e.size_bytes), home_path(e.path)) for e in entries
    ]
    if out.width >= WIDE:
        out.table(("On this machine", "Family", "Size", "Path"), rows, numbers=(2,))
    else:
        rows = [(two_lines(name, path), family, size) for name, family, size, path in rows]
        out.table(("On this machine", "Family", "Size"), rows, numbers=(2,), folds=0)
    out.data("")


def _show_families(out: Output, families: list[FamilySpec]) -> None:
    headers = ("LLM", "Architecture", "Models Id", "Installation", "Runtime")
    rows = [
        (
            spec.name + ("" if spec.verified else " *"),
            spec.architectures[0],
            spec.default_id + (f"  +{len(spec.model_ids) - 1}" if len(spec.model_ids) > 1 else ""),
            installation(spec),
            ", ".join(runtimes(spec)),
        )
        for spec in families
    ]
    shown = [0, 1, 2, 3, 4] if out.width >= WIDE else [0, 1, 2, 4] if out.width >= NARROW else [0, 2, 4]
    out.table([headers[i] for i in shown], [[row[i] for i in shown] for row in rows])
    out.say("\n+n: more ids, by `openllm models LLM`.  *: some facts are unverified.", dim=True)


def _show_family(out: Output, spec: FamilySpec) -> None:
    rows = [
        ("LLM", spec.name),
        ("Architecture", "\n".join(spec.architectures)),
        ("Models Id", "\n".join(i + (" (default)" if i == spec.default_id else "") for i in spec.model_ids)),
        ("Installation", f"pip install {installation(spec)}"),
        ("Runtime", ", ".join(runtimes(spec)) or "none installed"),
        ("CPU", ", ".join(spec.backends)),
        ("GPU", ", ".join(spec.backends)),
        ("Own code", "the models carry Python code: --trust-remote-code" if spec.needs_trust else "none needed"),
        ("Start", f"openllm start {spec.name}"),
    ]
    if not spec.verified:
        unsure = ("all other facts" if path == "*" else path for path in unverified(spec))
        rows.append(("Unverified", ", ".join(unsure)))
    for name, value in rows:
        first, *rest = value.split("\n")
        out.data(f"{name:<14}{first}")
        for line in rest:
            out.data(f"{'':<14}{line}")


def home_path(path: Path) -> str:
    """A path with the home folder as `~`."""
    try:
        return f"~/{path.relative_to(Path.home())}"
    except ValueError:
        return str(path)
