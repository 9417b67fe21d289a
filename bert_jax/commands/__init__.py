"""One dataclass a command: its flags with their help, and the function it calls.

Heavy libraries are imported by the command that needs them, so that `--help` and a
mistyped flag answer at once.
"""
