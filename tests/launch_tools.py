"""What the tests of launch/ share: running a script, stand-ins for programs on PATH."""

import os
import pathlib
import shlex
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch"

# Waits for its first SIGTERM, says so, takes a while to "save", and counts the others.
SAVES_WHEN_STOPPED = """
stops=0
trap 'stops=$((stops + 1)); echo "TERM $stops"' TERM
echo started "$@"
for _ in $(seq 1200); do ((stops == 0)) || break; sleep 0.05; done
sleep 0.3
echo saved
exit 130
"""


def run(script, *arguments, env=None, code=0, **settings):
    done = subprocess.run(
        [str(script), *map(str, arguments)],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        **settings,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def program(path: pathlib.Path, body: str) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)
    return path


def wait_for(condition, what: str) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.02)


def crashing(tmp_path, *codes) -> pathlib.Path:
    """Exits with one code after the other; the last one for ever."""
    state = tmp_path / "starts"
    return program(
        tmp_path / "crashing",
        f"codes=({' '.join(map(str, codes))}); echo start >>{state}\n"
        f'n=$(wc -l <{state}); exit "${{codes[n <= {len(codes)} ? n - 1 : -1]}}"',
    )


def starts(tmp_path) -> int:
    return len((tmp_path / "starts").read_text().splitlines())


class Tools:
    """Stand-ins for programs, which record what they were called with."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder / "tools"
        self._record = folder / "calls"
        self.env = {"PATH": f"{self._folder}:{os.environ['PATH']}"}

    def add(self, name: str, body: str = "") -> None:
        note = f"printf '%q ' {name} \"$@\" >>{self._record}; echo >>{self._record}"
        program(self._folder / name, f"{note}\n{body}")

    def calls(self) -> list[list[str]]:
        """One list of words a call, the program first."""
        if not self._record.exists():
            return []
        return [shlex.split(line) for line in self._record.read_text().splitlines()]
