"""Clients of an OpenLLM server over HTTP, sync and async. Imports neither torch nor grpc."""
