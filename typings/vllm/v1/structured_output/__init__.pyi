from vllm.v1.structured_output.request import StructuredOutputOptions

class StructuredOutputBackend:
    def compile_grammar(self, request_type: StructuredOutputOptions, grammar_spec: str) -> object: ...

class StructuredOutputManager:
    backend: StructuredOutputBackend | None
