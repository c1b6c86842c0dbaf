"""`python -m openllm`: the same as the `openllm` command. Used where no script is on the path, as in a container."""

from openllm.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
