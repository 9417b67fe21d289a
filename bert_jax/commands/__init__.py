"""One dataclass for each command: its flags with their help, and its `run()`.

Heavy libraries are imported by the command that needs them, so that `--help` and a
mistyped flag answer at once.
"""
