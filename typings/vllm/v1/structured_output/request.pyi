from enum import Enum

from vllm.sampling_params import StructuredOutputsParams

class StructuredOutputOptions(Enum):
    JSON = 1

def get_structured_output_key(params: StructuredOutputsParams) -> tuple[StructuredOutputOptions, str]: ...
