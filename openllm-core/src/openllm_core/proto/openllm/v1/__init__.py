"""Version 1: `openllm_pb2` has the messages, `openllm_pb2_grpc` the stub and the servicer. Both are generated."""
