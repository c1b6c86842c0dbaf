"""Configurations of models: what to generate and how to sample."""
