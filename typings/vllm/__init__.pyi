# The part of vLLM that the vllm backend uses, typed: it is not installed where types are checked.
# Kept true by tests/openllm/backends/vllm/engine, which run against vLLM itself.
