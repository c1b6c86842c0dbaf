"""The server over gRPC: the service `openllm.v1`, the part of BentoML's protocol that 0.3.5's clients speak, health, reflection.

Made by `openllm.compose`, run by `openllm.server.run` beside HTTP or alone, over the same `Service` and engine. Only this
folder and the clients' gRPC module know grpc; it comes with the extra `grpc`.
"""
