"""GenerationConfig and SamplingConfig: the 40 generation and 8 sampling fields a model family may set.

Names, types and defaults are those of OpenLLM 0.3.5, whose clients send them; `openllm_core.fields` says which of them
a backend honours. Both are plain frozen values that check themselves: where a value comes from is `config/llm.py`'s business.
"""

from typing import Any

import attrs

from ..errors import InvalidRequest
from ..serde import check, field
from .env import invalid


class _Items:
    """`config["name"]` reads a field, an unknown one is a KeyError; a wrong value is refused."""

    def __getitem__(self, name: str) -> Any:
        if name not in type(self).__annotations__:
            raise KeyError(name)
        return getattr(self, name)

    def __attrs_post_init__(self) -> None:
        """Check types and ranges.

        Raises:
            InvalidSetting: names the field.
        """
        try:
            check(self)
        except InvalidRequest as error:
            raise invalid(error) from None


@attrs.frozen(kw_only=True)
class GenerationConfig(_Items):
    """How to generate: the fields `transformers.GenerationConfig` had in 2023."""

    max_new_tokens: int = field(default=20, ge=1, help="Tokens to generate at most.")
    min_length: int = field(default=0, ge=0, help="Tokens of prompt and completion before which no end token is drawn.")
    min_new_tokens: int | None = field(default=None, ge=0, help="Generated tokens before which no end token is drawn.")
    early_stopping: bool = field(default=False, help="When beam search stops.")
    max_time: float | None = field(default=None, ge=0, help="Seconds after which generation ends.")
    num_beams: int = field(default=1, ge=1, help="Beams; 1 is no beam search.")
    num_beam_groups: int = field(default=1, ge=1, help="Groups of diverse beam search.")
    penalty_alpha: float | None = field(default=None, ge=0, help="Degeneration penalty of contrastive search.")
    use_cache: bool = field(default=True, help="Keep keys and values of past tokens.")
    temperature: float = field(default=1.0, ge=0, le=2, help="0 is greedy; higher is more random.")
    top_k: int = field(default=50, ge=-1, help="Most likely tokens kept; 0 or -1 keeps all.")
    top_p: float = field(default=1.0, gt=0, le=1, help="Share of probability kept (nucleus).")
    typical_p: float = field(default=1.0, gt=0, le=1, help="Share kept by local typicality.")
    epsilon_cutoff: float = field(default=0.0, ge=0, lt=1, help="Least probability of a token kept.")
    eta_cutoff: float = field(default=0.0, ge=0, help="Eta sampling cutoff.")
    diversity_penalty: float = field(default=0.0, help="Penalty between beam groups.")
    repetition_penalty: float = field(default=1.0, ge=0.01, le=10, help="Divides logits of tokens seen so far.")
    encoder_repetition_penalty: float = field(default=1.0, gt=0, help="The same for tokens of the encoder's input.")
    length_penalty: float = field(default=1.0, help="Exponent on the length of a beam.")
    no_repeat_ngram_size: int = field(default=0, ge=0, help="N-grams of this size occur once.")
    bad_words_ids: list[list[int]] | None = field(default=None, help="Token sequences never generated.")
    force_words_ids: list[list[int]] | list[list[list[int]]] | None = field(
        default=None, help="Token sequences that must occur."
    )
    renormalize_logits: bool = field(default=False, help="Normalise logits after all processors.")
    constraints: list[Any] | None = field(default=None, help="Constraint objects; they cannot be sent as JSON.")
    forced_bos_token_id: int | None = field(default=None, ge=0, help="Token forced first.")
    forced_eos_token_id: int | list[int] | None = field(default=None, ge=0, help="Token forced at the length limit.")
    remove_invalid_values: bool = field(default=False, help="Replace NaN and infinity in logits.")
    exponential_decay_length_penalty: tuple[int, float] | None = field(
        default=None, help="Start index and factor of a growing end-token bias."
    )
    suppress_tokens: list[int] | None = field(default=None, ge=0, help="Tokens never generated.")
    begin_suppress_tokens: list[int] | None = field(default=None, ge=0, help="Tokens never generated first.")
    forced_decoder_ids: list[list[int]] | None = field(default=None, help="Pairs of position and forced token.")
    num_return_sequences: int = field(default=1, ge=1, help="Sequences to return.")
    output_attentions: bool = field(default=False, help="Return attentions.")
    output_hidden_states: bool = field(default=False, help="Return hidden states.")
    output_scores: bool = field(default=False, help="Return logits.")
    pad_token_id: int | None = field(default=None, ge=0, help="Padding token; padding never reaches an answer.")
    bos_token_id: int | None = field(default=None, ge=0, help="First token of an empty prompt.")
    eos_token_id: int | list[int] | None = field(default=None, ge=0, help="Tokens that end the text.")
    encoder_no_repeat_ngram_size: int = field(default=0, ge=0, help="N-grams of the encoder's input are not repeated.")
    decoder_start_token_id: int | None = field(default=None, ge=0, help="First token of the decoder.")


@attrs.frozen(kw_only=True)
class SamplingConfig(_Items):
    """How to sample: the eight fields 0.3.5 took over from vLLM, beside those it shares with generation."""

    n: int = field(default=1, ge=1, le=128, help="Sequences to generate.")
    best_of: int | None = field(default=None, ge=1, help="Sequences to choose from; only equal to n.")
    presence_penalty: float = field(default=0.0, ge=-2, le=2, help="Subtracted once from generated tokens.")
    frequency_penalty: float = field(default=0.0, ge=-2, le=2, help="Subtracted per occurrence.")
    use_beam_search: bool = field(default=False, help="Beam search instead of sampling.")
    stop: list[str] | None = field(default=None, help="Strings that end the text; not returned.")
    ignore_eos: bool = field(default=False, help="Go on past the model's end token.")
    logprobs: int | None = field(default=None, ge=0, le=20, help="Most likely tokens to return log-probabilities of.")


GENERATION_FIELDS: tuple[str, ...] = tuple(a.name for a in attrs.fields(GenerationConfig))
SAMPLING_FIELDS: tuple[str, ...] = tuple(a.name for a in attrs.fields(SamplingConfig))
