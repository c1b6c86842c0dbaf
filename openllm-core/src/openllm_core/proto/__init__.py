"""What goes over gRPC: openllm/v1/openllm.proto and the stubs that tools/gen_proto.py writes beside it.

Imported by `openllm.rpc` and by the gRPC clients alone: it needs grpcio and protobuf, which only the extra `grpc` brings.
"""
