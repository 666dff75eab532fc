"""The subcommands of `tf_sphereface-eval`, one a file: `add` declares one, `run` runs it."""
