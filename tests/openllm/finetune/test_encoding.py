"""Examples as tokens: what is learnt, what is only read, and that it is what the server would send the model."""

from __future__ import annotations

from typing import Any

import pytest
from tests.openllm.finetune.conftest import MakeLLM

from openllm import chat, serialisation
from openllm.finetune import Example
from openllm.finetune.encoding import NOT_LEARNT, encode
from openllm_core.errors import InvalidDataset

TURNS = (
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "ho"},
    {"role": "user", "content": "and now"},
    {"role": "assistant", "content": "bye"},
)
EOS = 2


@pytest.fixture
def tokenizer(make_llm: MakeLLM) -> Any:
    return make_llm("llama").load_tokenizer()


def learnt(tokenizer: Any, row: dict[str, list[int]]) -> str:
    """The text of what is learnt, special tokens included."""
    return tokenizer.decode([label for label in row["labels"] if label != NOT_LEARNT])


def one(tokenizer: Any, max_length: int = 512, **example: Any) -> dict[str, list[int]]:
    return encode([Example(line=1, **example)], tokenizer, max_length=max_length).rows[0]


def test_a_text_is_learnt_whole(tokenizer: Any) -> None:
    """With the end token after it."""
    row = one(tokenizer, text="the quick fox")
    assert row["labels"] == row["input_ids"]
    assert learnt(tokenizer, row) == "the quick fox</s>"


def test_of_a_pair_the_completion_is_learnt(tokenizer: Any) -> None:
    """The prompt is read; both stand as a completion request would have them."""
    row = one(tokenizer, prompt="the quick", completion=" fox")
    assert tokenizer.decode(row["input_ids"]) == "the quick fox</s>"
    assert learnt(tokenizer, row) == " fox</s>"
    assert len(row["labels"]) == len(row["input_ids"]) == len(row["attention_mask"])


def test_of_a_conversation_the_assistants_turns_are_learnt(tokenizer: Any, make_llm: MakeLLM) -> None:
    """Each of them, and the whole is the text that the server renders."""
    row = one(tokenizer, messages=TURNS)
    served = serialisation.open_tokenizer(make_llm("llama").resolved().path)
    rendered = chat.render_chat(served, list(TURNS), add_generation_prompt=False)
    assert tokenizer.decode(row["input_ids"]) == rendered
    assert learnt(tokenizer, row) == " ho\n bye\n"


def test_what_follows_the_last_answer_is_not_read(tokenizer: Any) -> None:
    """A user's question without an answer teaches nothing."""
    assert one(tokenizer, messages=TURNS[:4]) == one(tokenizer, messages=TURNS[:3])


def test_long_examples_lose_their_end(tokenizer: Any) -> None:
    """They are counted; one of which nothing is left to learn is refused by its line."""
    long = Example(line=1, text="abc " * 50)
    found = encode([long, Example(line=2, text="abc")], tokenizer, max_length=20)
    assert [len(row["input_ids"]) for row in found.rows] == [20, len(found.rows[1]["input_ids"])]
    assert found.cut == 1
    with pytest.raises(InvalidDataset, match=r"line 9: its first 8 tokens hold nothing to learn"):
        encode([Example(line=9, prompt="abc " * 50, completion="x")], tokenizer, max_length=8)


def test_a_model_without_a_chat_template_takes_no_messages(tokenizer: Any) -> None:
    """The refusal says what to give instead."""
    tokenizer.chat_template = None
    with pytest.raises(InvalidDataset, match="line 1: this model has no chat template") as caught:
        one(tokenizer, messages=TURNS)
    assert "prompt and completion" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ raise_exception('no system here') }}", "the chat template refuses it: no system here"),
        ("{{ messages | length }}{{ messages[-1].content }}", "changes what stands before messages[2]"),
    ],
)
def test_templates_that_cannot_be_learnt_from(tokenizer: Any, template: str, problem: str) -> None:
    """A template may refuse a conversation, or render a turn otherwise once another follows: the line is named."""
    tokenizer.chat_template = template
    with pytest.raises(InvalidDataset, match="line 1: ") as caught:
        one(tokenizer, messages=TURNS)
    assert problem in caught.value.message


def test_an_encoder_reads_and_a_decoder_learns(make_llm: MakeLLM) -> None:
    """Sequence-to-sequence models learn the completion as labels of their own, and nothing of other shapes."""
    tokenizer = make_llm("t5").load_tokenizer()
    pair = Example(line=1, prompt="the quick", completion="fox")
    row = encode([pair], tokenizer, max_length=64, seq2seq=True).rows[0]
    assert tokenizer.decode(row["input_ids"]) == "the quick"
    assert tokenizer.decode(row["labels"]) == "fox</s>"
    with pytest.raises(InvalidDataset, match="line 4: a model with an encoder"):
        encode([Example(line=4, text="x")], tokenizer, max_length=64, seq2seq=True)
