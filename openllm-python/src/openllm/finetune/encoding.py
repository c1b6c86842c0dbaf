"""Training examples as token ids, with the part that is learnt marked.

Called by `training.py` once per run. A conversation is rendered with the model's own chat template, as the server renders
it, and the assistant's turns are learnt; knows nothing of files or trainers beyond the names transformers gives to fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import attrs

from openllm_core.errors import InvalidDataset

from .dataset import Example

NOT_LEARNT = -100  # the label that torch's cross entropy passes over
Row = dict[str, list[int]]


@attrs.frozen(kw_only=True)
class Encoded:
    """Rows for a trainer.

    Attributes:
        rows: `input_ids`, `attention_mask` and `labels` (`NOT_LEARNT` where only read) of each example.
        cut: examples that were longer than the limit.
    """

    rows: list[Row]
    cut: int


def encode(examples: Sequence[Example], tokenizer: Any, *, max_length: int, seq2seq: bool = False) -> Encoded:
    """Turn examples into rows of at most `max_length` tokens; what is longer loses its end.

    Args:
        tokenizer: a transformers tokenizer.
        seq2seq: an encoder reads the prompt and a decoder learns the completion.

    Raises:
        InvalidDataset: the model cannot learn from an example; names its line.
    """
    rows: list[Row] = []
    cut = 0
    for position, given in enumerate(examples, start=1):
        example = given if given.line else attrs.evolve(given, line=position)
        row = _row_seq2seq(example, tokenizer) if seq2seq else _row(example, tokenizer)
        cut += max(len(ids) for ids in row.values()) > max_length
        row = {name: ids[:max_length] for name, ids in row.items()}
        if all(label == NOT_LEARNT for label in row["labels"]):
            raise _refused(
                example,
                f"its first {max_length} tokens hold nothing to learn.",
                "Raise --max-length, or shorten the prompt.",
            )
        rows.append(row)
    return Encoded(rows=rows, cut=cut)


def _row(example: Example, tokenizer: Any) -> Row:
    ids: list[int] = []
    labels: list[int] = []
    for text, learnt, special in _pieces(example, tokenizer):
        found = _ids(tokenizer, text, special)
        ids += found
        labels += found if learnt else [NOT_LEARNT] * len(found)
    if example.messages is None:  # a chat template writes its own ends
        end = _end(tokenizer, ids)
        ids, labels = ids + end, labels + end
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


def _row_seq2seq(example: Example, tokenizer: Any) -> Row:
    if example.prompt is None or example.completion is None:
        raise _refused(example, "a model with an encoder and a decoder learns from prompt and completion alone.", None)
    ids = _ids(tokenizer, example.prompt, True)
    labels = _ids(tokenizer, example.completion, True)
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels + _end(tokenizer, labels)}


def _end(tokenizer: Any, ids: list[int]) -> list[int]:
    """The end token, where it is not there yet."""
    end: int | None = tokenizer.eos_token_id
    return [] if end is None or ids[-1:] == [end] else [end]


def _pieces(example: Example, tokenizer: Any) -> list[tuple[str, bool, bool]]:
    """(text, whether it is learnt, whether the tokenizer adds its special tokens), in order."""
    if example.text is not None:
        return [(example.text, True, True)]
    if example.prompt is not None and example.completion is not None:
        return [(example.prompt, False, True), (example.completion, True, False)]
    return [(text, learnt, False) for text, learnt in _turns(example, tokenizer)]


def _turns(example: Example, tokenizer: Any) -> list[tuple[str, bool]]:
    """The rendered conversation, split where the assistant's turns begin and end."""
    messages = list(example.messages or ())
    if tokenizer.chat_template is None:
        raise _refused(example, "this model has no chat template.", "Give prompt and completion instead of messages.")
    pieces: list[tuple[str, bool]] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(example, tokenizer, messages[:index], True)
        after = _render(example, tokenizer, messages[: index + 1], False)
        if not (before.startswith(done) and after.startswith(before)):
            raise _refused(
                example,
                f"the chat template changes what stands before messages[{index}].",
                "Give each of the assistant's turns a line of its own, or prompt and completion.",
            )
        pieces += [(before[len(done) :], False), (after[len(before) :], True)]
        done = after
    return pieces


def _render(example: Example, tokenizer: Any, messages: list[dict[str, str]], opens: bool) -> str:
    try:
        found = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens)
    except Exception as error:  # a template may raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise _refused(example, f"the chat template refuses it: {reason}.", None) from error
    return cast(str, found)


def _ids(tokenizer: Any, text: str, special: bool) -> list[int]:
    return list(cast("Sequence[int]", tokenizer(text, add_special_tokens=special)["input_ids"]))


def _refused(example: Example, problem: str, hint: str | None) -> InvalidDataset:
    return InvalidDataset(f"line {example.line}: {problem}", hint=hint, param=f"line {example.line}")
