"""Config files: Python files with a `get_config()`, found by path or by name."""

import pathlib
import runpy
import sysconfig
from typing import Any


def config_path(name: str) -> pathlib.Path:
    """The file that a path, or the bare name of a shipped config, stands for.

    Raises:
        FileNotFoundError: there is no such file; the message lists the known names.
    """
    folders = (
        pathlib.Path("configs"),
        pathlib.Path(__file__).parents[2] / "configs",
        pathlib.Path(sysconfig.get_paths()["data"]) / "share/bert_jax/configs",
    )
    candidates = [pathlib.Path(name), *(f / f"{name}.py" for f in folders)]
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        known = sorted({p.stem for f in folders for p in f.glob("*.py")})
        raise FileNotFoundError(
            f"--config {name}: no such file; give a path, or one of the shipped "
            f"configs: {', '.join(known)}."
        )
    return path


def load_config(name: str, kind: type) -> Any:
    """Runs `get_config()` of a config file.

    Raises:
        FileNotFoundError: there is no such file; the message lists the known names.
        ValueError: the file has no `get_config`, or that returns no `kind`.
    """
    path = config_path(name)
    make = runpy.run_path(str(path)).get("get_config")
    if make is None:
        raise ValueError(f"{path} defines no get_config(); see configs/ for examples.")
    config = make()
    if not isinstance(config, kind):
        raise ValueError(
            f"{path}: get_config() returned a {type(config).__name__}; this command "
            f"needs a {kind.__name__}."
        )
    return config
