"""What `openllm.LLM` answered to in 0.3.5 beside what it does now: names, flags, `generate_one`, `generate_iterator`, calling it.

Base of `LLM`, which brings `generate` and the streams; `openllm.Runner` hands these on. Knows no engine.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from openllm_core.config.llm import LLMConfig
from openllm_core.errors import InvalidRequest
from openllm_core.families import registry as families
from openllm_core.options import EngineOptions
from openllm_core.schema import Delta, Usage

from .stored import StoredModel

AGENT_TOKENS = 200
"""`generate_one` stops after so many tokens unless told otherwise, as 0.3.5 did."""


class ClassicCalls(StoredModel):
    """A model by the names of 0.3.5."""

    _given_config: LLMConfig | None = None

    @abstractmethod
    def stream_of(self, prompt: str, fields: dict[str, Any]) -> tuple[Iterator[Delta], Any]:
        """Begin to complete a prompt: its deltas, and what knows the `usage()` so far."""

    @abstractmethod
    def chosen_options(self) -> EngineOptions:
        """The engine's options with backend and model decided; finds the model, loads nothing."""

    # -- names --------------------------------------------------------------------------------------------------------

    @property
    def model_id(self) -> str:
        """Id of the model; the name of a folder."""
        return self.chosen_options().model_id

    @property
    def config(self) -> LLMConfig:
        """Generation defaults: those given, else the environment's and the family's."""
        if self._given_config is not None:
            return self._given_config
        family = self.chosen_options().family
        return LLMConfig.for_model(families.find(family) if family else families.default())

    @property
    def llm_type(self) -> str:
        """The family in snake case; of a model of no known family, the default one."""
        return self.config.family.model_name

    @property
    def runner_name(self) -> str:
        """What its runner is called: `llm-<family>-runner`."""
        return f"llm-{self.config.family.name}-runner"

    @property
    def identifying_params(self) -> dict[str, Any]:
        """Configuration and known ids of the family, as JSON texts."""
        from openllm_core.serde import dumps

        return {
            "configuration": self.config.model_dump_json().decode(),
            "model_ids": dumps(self.config.family.model_ids).decode(),
        }

    # -- flags --------------------------------------------------------------------------------------------------------

    @property
    def supports_hf_agent(self) -> bool:
        """Whether `generate_one` works: the model generates text, and no subclass took the method away."""
        from .backends import sentence

        return callable(getattr(type(self), "generate_one", None)) and sentence.generates(self.chosen_options())

    @property
    def has_adapters(self) -> bool:
        """Whether it was given adapters."""
        return bool(self._options.adapter_id)

    # -- calls --------------------------------------------------------------------------------------------------------

    def generate_one(
        self, prompt: str, stop: str | Sequence[str] | None = None, max_new_tokens: int = AGENT_TOKENS, **fields: Any
    ) -> list[dict[str, str]]:
        """Complete one prompt for an agent.

        Returns:
            `[{"generated_text": text}]`: the completion alone, without the stop string that ended it.
        """
        text = ""
        for piece in self.generate_iterator(prompt, stop=stop, max_new_tokens=max_new_tokens, **fields):
            text = piece["text"]
        return [{"generated_text": text}]

    def generate_iterator(
        self,
        prompt: str,
        /,
        *,
        echo: bool = False,
        stream_interval: int = 2,
        stop: str | Sequence[str] | None = None,
        stop_token_ids: Sequence[int] | None = None,
        **fields: Any,
    ) -> Iterator[dict[str, Any]]:
        """Complete one prompt, saying again and again what there is so far.

        Args:
            echo: begin with the prompt.
            stream_interval: tokens between two items.
            stop, stop_token_ids: what ends the text; neither is returned.
            fields: as for `generate`.

        Yields:
            {"text": all so far, "usage": {...token counts}, "finish_reason": None, or "stop" or "length" in the last}.

        Raises:
            InvalidRequest: as `generate`; also ValueError where `stop` is neither text nor texts.
        """
        if stream_interval < 1:
            raise InvalidRequest("stream_interval must be >= 1.", param="stream_interval")
        if fields.get("n", 1) != 1:
            raise InvalidRequest("n must be 1: one text is told piece by piece.", param="n")
        if stop is not None:
            fields["stop"] = stop if isinstance(stop, str) else _texts(stop)
        if stop_token_ids is not None:
            fields["stop_token_ids"] = list(stop_token_ids)
        deltas, counts = self.stream_of(prompt, fields)
        text, unsaid = prompt if echo else "", 0
        for delta in deltas:
            text += delta.text
            unsaid += len(delta.token_ids)
            if unsaid >= stream_interval or delta.finish_reason is not None:
                unsaid = 0
                usage: Usage = counts.usage()
                yield {"text": text, "usage": attrs.asdict(usage), "finish_reason": delta.finish_reason}

    def __call__(self, prompt: str, **fields: Any) -> str:
        """The completion of a prompt as text."""
        text = ""
        for piece in self.generate_iterator(prompt, **fields):
            text = piece["text"]
        return text

    predict = __call__


def _texts(stop: Sequence[object]) -> list[str]:
    texts = [text for text in stop if isinstance(text, str)]
    if len(texts) != len(stop):
        raise ValueError(f"stop must be a text or a list of texts, not {stop!r}.")
    return texts
