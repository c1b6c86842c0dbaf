"""The vocabulary of OpenLLM: values, settings and model facts. Runs nothing; importable by any tool."""
