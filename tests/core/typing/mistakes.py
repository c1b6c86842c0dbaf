"""Mistakes that type checkers must find: each marked line is one, and there is no other."""

from __future__ import annotations

from openllm_core import GenerationConfig, LLMConfig, OPTConfig

print(OPTConfig().no_such_field)  # WRONG
OPTConfig().format_outputs.upper()  # WRONG
OPTConfig("positional")  # WRONG
GenerationConfig(temperature="hot")  # WRONG
GenerationConfig(no_such_field=1)  # WRONG
LLMConfig.for_model(1)  # WRONG
OPTConfig().model_dump(flatten="yes")  # WRONG
OPTConfig().generation_config.top_k = 3  # WRONG
