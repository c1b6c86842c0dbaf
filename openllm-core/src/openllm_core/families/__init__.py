"""What is known of model families: ids, architectures, defaults, prompts; one TOML file each in `data/`."""
