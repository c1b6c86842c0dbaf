"""Protocols of OpenLLM's own, one folder for each version."""
