"""Compiles a phase in a process of its own, and says what came out as plain values.

A compiler that runs out of the host's memory, or dies, ends that process alone, what it
took is given back, and a CPU of any number of devices can be asked for.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from bert_jax.config import PretrainConfig
from bert_jax.config_json import from_json, to_json
from bert_jax.topology.candidates import Measured
from bert_jax.topology.search import Measure

# Of what a process that failed has said.
_SHOWN = 2_000


def compile_apart(phase: PretrainConfig, topology: str) -> dict[str, Any]:
    """What `bert-jax compile --json` writes of a phase, without the sharding table.

    Args:
        phase: one of `PretrainConfig.phases`.
        topology: its name, such as v5e:4x4.

    Raises:
        ValueError: as `compile_step`, with its message.
        RuntimeError: the process died; the end of what it said is in the message.
    """
    with tempfile.TemporaryDirectory(prefix="bert_jax_compile_") as folder:
        request, answer = (
            pathlib.Path(folder) / name for name in ("request.json", "answer.json")
        )
        request.write_text(json.dumps({"phase": to_json(phase), "topology": topology}))
        ended = subprocess.run(
            [sys.executable, "-m", "bert_jax.topology.apart", str(request)],
            # No accelerator is needed, so none is asked for.
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        if not answer.exists():
            raise RuntimeError(
                f"the compilation for {topology} ended with exit code "
                f"{ended.returncode}: {ended.stdout[-_SHOWN:].strip()}"
            )
        result = json.loads(answer.read_text())
    if "error" in result:
        raise ValueError(result["error"])
    return result


def measure_apart(topology: str) -> Measure:
    """A `Measure` of `search` for one machine.

    Seconds are the slow end of the estimate, which counts whatever the compiler does.
    """

    def measure(phase: PretrainConfig) -> Measured:
        result = compile_apart(phase, topology)
        memory, estimated = result["memory"], result["estimate"]
        return Measured(
            bytes=memory["total"],
            limit_bytes=memory["limit"],
            fits=result["fits"],
            seconds=None if estimated is None else estimated["slowest"],
        )

    return measure


def main() -> None:
    """Of that process."""
    from bert_jax.topology.compiled import compile_step
    from bert_jax.topology.devices import parse_topology
    from bert_jax.topology.estimate import estimate
    from bert_jax.topology.show import as_json

    request = pathlib.Path(sys.argv[1])
    asked = json.loads(request.read_text())
    try:
        step = compile_step(
            from_json(PretrainConfig, asked["phase"]),
            parse_topology(asked["topology"]),
        )
    except ValueError as error:
        result: dict[str, Any] = {"error": str(error)}
    else:
        result = as_json(step, estimate(step), ())
    draft = request.with_name("draft.json")
    draft.write_text(json.dumps(result))
    draft.replace(request.with_name("answer.json"))


if __name__ == "__main__":
    main()
