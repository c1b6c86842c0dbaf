"""A trained adapter as files: its own two, or a model of its own with the adapter merged in.

Called by `run.py` and by programs. For a merge the base is loaded anew as its files have it, so that what was trained over
quantised weights is merged into the unquantised ones. Knows nothing of training.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllm.backends import checkpoint as checkpoints
from openllm.backends import quantisation
from openllm.serialisation.formats import INDEX_FILE, inspect
from openllm_core.errors import UnsupportedFeature

from .untyped import library, quietly

if TYPE_CHECKING:
    from openllm.stored import StoredModel

FILES = ("adapter_model.safetensors", "adapter_config.json")
_OF_THE_STORE = ("manifest.json", "model.yaml", INDEX_FILE)


def save_adapter(model: Any, folder: Path, *, base: str) -> None:
    """Write the adapter's two files.

    Args:
        model: a `peft.PeftModel`.
        folder: made where it is not there.
        base: id of the model it is for; where that lies on this machine is nobody's business.
    """
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f".adapter-{uuid.uuid4().hex[:8]}"
    for config in model.peft_config.values():
        config.base_model_name_or_path = base
    try:
        with quietly():
            model.save_pretrained(str(staging), safe_serialization=True)
        for name in FILES:
            os.replace(staging / name, folder / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def merge_adapter(llm: StoredModel, adapter: Path, out: Path) -> Path:
    """Write the model of `llm` with an adapter merged in, as safetensors in the type of the base's files.

    Args:
        adapter: folder with `adapter_config.json` and `adapter_model.safetensors`.
        out: folder to make; replaced where it is there. It appears whole or not at all.

    Raises:
        UnsupportedFeature: the base's own files are quantised, so there are no plain weights to merge into.
    """
    refuse_quantised(llm)
    staging = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
    try:
        with quietly():
            base = llm.load_model(dtype="auto")
            merged = library("peft").PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
            merged.save_pretrained(str(staging), safe_serialization=True)
        _copy_rest(llm.resolved().path, staging)
        if out.exists():
            shutil.rmtree(out)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return out


def refuse_quantised(llm: StoredModel) -> None:
    """Raise UnsupportedFeature where a model's own files are quantised."""
    found = llm.resolved()
    if quantisation.stored(checkpoints.read(found.path, allow_pickle=True)):
        raise UnsupportedFeature(
            f"{found.model_id} is stored quantised: there are no plain weights to merge an adapter into.",
            hint="Leave --merge out and serve it with --adapter-id, or fine-tune the model it was made of.",
            param="merge",
        )


def _copy_rest(base: Path, out: Path) -> None:
    """Tokenizer, chat template, licence: whatever is neither weights nor the store's own."""
    left = {path.name for path in inspect(base).weights} | {path.name for path in out.iterdir()} | set(_OF_THE_STORE)
    for path in base.iterdir():
        if path.is_file() and path.name not in left:
            shutil.copyfile(path, out / path.name)
