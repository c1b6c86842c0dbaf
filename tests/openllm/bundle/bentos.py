"""Bentos made by hand for tests: the files that we read of one, without BentoML, which takes seconds to make one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openllm.serialisation.bento_record import BentoAdapter, BentoRecord
from openllm.serialisation.store import Store, StoreEntry
from openllm_core.options import StoreOptions


def written(home: Path, entry: StoreEntry, *, tag: str = "tiny-service:v1", **facts: Any) -> Path:
    """A Bento of a stored model; `facts` are fields of its record."""
    name, _, version = tag.partition(":")
    folder = home / "bentos" / name / version
    (folder / "src").mkdir(parents=True)
    record = BentoRecord(tag=tag, model=entry.tag, model_id=entry.model_id, family=entry.family, **facts)
    (folder / "src" / "openllm.json").write_bytes(record.to_json())
    labels = {"bundler": "openllm.bundle", "start_name": "llama", "base_name_or_path": entry.model_id}
    info = {"name": name, "version": version, "service": "x:svc", "labels": labels, "models": [{"tag": entry.tag}]}
    (folder / "bento.yaml").write_text(json.dumps(info))
    (folder.parent / "latest").write_text(version)
    return folder


def adapter(name: str) -> BentoAdapter:
    """An adapter of a Bento's record."""
    return BentoAdapter(name=name, path=f"adapters/{name}", files={"adapter_config.json": "0" * 64})


def store_of(home: Path) -> Store:
    """The store of a home."""
    return Store(StoreOptions(home=str(home)))
