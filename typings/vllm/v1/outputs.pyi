from typing import Any, NamedTuple

class LogprobsLists(NamedTuple):
    logprob_token_ids: Any
    logprobs: Any

class ModelRunnerOutput: ...
