"""What a model folder says of its use as a sentence encoder: pooling and length, in sentence-transformers' files.

Called by `launch` in the server process and where the model is loaded. Reads small JSON files beside config.json
(modules.json, 1_Pooling/config.json, sentence_bert_config.json, config_sentence_transformers.json); a folder without
them is pooled by the mean.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, cast

import attrs

from openllm_core.errors import CorruptModel, UnsupportedFeature
from openllm_core.options import EngineOptions

from .checkpoint import Checkpoint, read

Pooling = Literal["mean", "cls", "lasttoken", "max"]

ENCODERS = frozenset(
    {
        "albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "eurobert", "gte",
        "modernbert", "mpnet", "new", "nomic_bert", "roberta", "squeezebert", "xlm-roberta", "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip
"""`model_type`s of models that read a text in both directions and generate none, unless they say they are decoders."""
OFFSET_POSITIONS = frozenset({"camembert", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl", "xmod"})
"""Those whose positions begin behind the padding id, so that two of their `max_position_embeddings` are no tokens."""
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean",  # another length, and vectors are made of length one
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
}
_NAMES: dict[str, Pooling] = {
    "mean": "mean", "mean_sqrt_len_tokens": "mean", "cls": "cls", "lasttoken": "lasttoken", "max": "max",
}  # fmt: skip


@attrs.frozen(kw_only=True)
class SentenceEncoder:
    """How texts become vectors.

    Attributes:
        pooling: of the hidden states.
        max_tokens: of a text, special tokens included; None where nothing bounds it.
        prompt: that sentence-transformers puts before every text; we do not, since a request's text is embedded as it is.
    """

    pooling: Pooling = "mean"
    max_tokens: int | None = None
    prompt: str | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What differs from sentence-transformers and what a caller must know, one line each."""
        if not self.prompt:
            return ()
        return (f"embedding prompt: left out (put {self.prompt!r} before your texts, as sentence-transformers does)",)


def generates(options: EngineOptions) -> bool:
    """Whether a model makes text, as far as its files say; one without files, or whose files cannot be read, may."""
    if not options.model_path:
        return True
    try:
        return not embeds_only(read(options.model_path, allow_pickle=options.allow_pickle_weights))
    except CorruptModel:
        return True


def embeds_only(checkpoint: Checkpoint) -> bool:
    """Whether the model makes embeddings and cannot generate."""
    return checkpoint.config.get("model_type") in ENCODERS and not checkpoint.config.get("is_decoder")


def describe(checkpoint: Checkpoint) -> SentenceEncoder:
    """How a model makes vectors of texts.

    Raises:
        CorruptModel: a file is no JSON of its kind.
        UnsupportedFeature: it needs what we do not do: layers behind the pooling, several poolings together.
    """
    positions = checkpoint.max_positions
    if positions is not None and checkpoint.config.get("model_type") in OFFSET_POSITIONS:
        positions -= 2
    modules = _read(checkpoint.path / "modules.json")
    if modules is None:
        return SentenceEncoder(max_tokens=positions, prompt=_prompt(checkpoint.path))
    pooling: Pooling = "mean"
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in cast("list[Any]", modules)):
        raise CorruptModel(f"{checkpoint.path / 'modules.json'} is no list of modules.", hint="Import the model again.")
    for module in cast("list[dict[str, Any]]", modules):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            pooling = _pooling(checkpoint.path / str(module.get("path", "")) / "config.json")
        elif kind not in ("Transformer", "Normalize"):
            raise UnsupportedFeature(
                f"{checkpoint.name} makes its embeddings with a layer of the kind {kind[:40]!r}, which is not supported.",
                hint="Name another model by --embedding-model.",
            )
    said = _read_object(checkpoint.path / "sentence_bert_config.json").get("max_seq_length")
    bounds = [n for n in (said, positions) if isinstance(n, int) and n > 0]
    return SentenceEncoder(pooling=pooling, max_tokens=min(bounds, default=None), prompt=_prompt(checkpoint.path))


def describe_own(checkpoint: Checkpoint) -> tuple[SentenceEncoder | None, tuple[str, ...]]:
    """How a model that is loaded to generate makes vectors, None where it cannot, and lines that say what is unusual.

    What is wrong with these files costs the model its embeddings, and nothing else.
    """
    try:
        found = describe(checkpoint)
    except (UnsupportedFeature, CorruptModel) as error:
        return None, (f"embeddings: none of its own ({error.message})",)
    pooled = () if found.pooling == "mean" else (f"pooling: {found.pooling}",)
    return found, (*pooled, *found.notes)


def _prompt(folder: Path) -> str | None:
    """The prompt of config_sentence_transformers.json that `encode` uses unless told otherwise."""
    config = _read_object(folder / "config_sentence_transformers.json")
    prompts, name = config.get("prompts"), config.get("default_prompt_name")
    if not isinstance(prompts, dict) or not isinstance(name, str):
        return None
    found = cast("dict[str, Any]", prompts).get(name)
    return found if isinstance(found, str) else None


def _pooling(file: Path) -> Pooling:
    config = _read_object(file)
    named: Any = config.get("pooling_mode")
    chosen = (
        [named]
        if isinstance(named, str)
        else [key for key in config if key.startswith("pooling_mode_") and config[key]]
    )
    found: set[Pooling | None] = {_POOLINGS.get(key) or _NAMES.get(key) for key in chosen}
    only = found.pop() if len(found) == 1 else None
    if only is None:
        raise UnsupportedFeature(
            f"{file.parent.parent.name} pools by {', '.join(chosen) or 'nothing'}, which is not supported.",
            hint="Name another model by --embedding-model.",
        )
    return only


def _read_object(file: Path) -> dict[str, Any]:
    found = _read(file)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _read(file: Path) -> Any:
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CorruptModel(f"{file} cannot be read: {error}.", hint="Import the model again.") from None
