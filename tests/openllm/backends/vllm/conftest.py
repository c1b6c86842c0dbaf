"""What the tests of the vllm backend share.

Tests that need vLLM itself run in the environment `.venv-vllm`: `engine/` holds them, and `test_lane.py` runs that folder
there with one child pytest. The rest reads files and facts alone and runs with the other unit tests.
"""

from __future__ import annotations

collect_ignore = ["engine"]
