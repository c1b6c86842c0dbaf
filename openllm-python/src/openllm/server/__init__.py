"""HTTP: the routes over `openllm.service`, and the process that serves them."""
