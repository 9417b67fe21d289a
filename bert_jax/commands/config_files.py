"""Config files: Python files with a `get_config()`, found by path or by name."""

import os
import pathlib
import runpy
import sysconfig
import traceback
from typing import Any

from bert_jax import config_json

_ROOT = pathlib.Path(__file__).parents[2]
# Of the clone, or of the installation, beside which `configs` may be another package's.
_SHIPPED = (
    _ROOT / "configs"
    if (_ROOT / "setup.cfg").is_file()
    else pathlib.Path(sysconfig.get_paths()["data"]) / "share/bert_jax/configs"
)


def config_path(name: str) -> pathlib.Path:
    """The file that a path, or the bare name of a shipped config, stands for.

    A path has a folder in it or ends in `.py`. A bare name never leads to a file of the
    current directory, which may hold anything: a config is a program that is run.

    Raises:
        FileNotFoundError: there is no such file; the message says what would do.
    """
    if os.sep in name or name.endswith(".py"):
        path = pathlib.Path(name).expanduser()
        if path.is_file():
            return path
        what = "is a directory" if path.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"--config {name}: this file {what}. Expected a Python file with get_config(), "
            f"or the bare name of a shipped config: {_known()}."
        )
    if (path := _SHIPPED / f"{name}.py").is_file():
        return path
    beside = (name, f"{name}.py", f"configs/{name}.py")
    own = next(filter(os.path.isfile, beside), None)
    hint = "A file of your own is given as a path, such as ./my_config.py."
    if own is not None:
        own = own if os.sep in own or own.endswith(".py") else f"./{own}"
        hint = f"To run your own file, give its path: {own}"
    raise FileNotFoundError(
        f"--config {name}: no config of this name is shipped; there are {_known()}. {hint}"
    )


def load_config(name: str, kind: type) -> Any:
    """Runs `get_config()` of a config file, and says which file that was.

    Raises:
        FileNotFoundError: there is no such file; the message says what would do.
        ValueError: the file cannot be run, has no `get_config`, that returns no `kind`, or
            a field holds a value of the wrong type.
    """
    path = config_path(name)
    try:
        made = runpy.run_path(str(path))
        if "get_config" not in made:
            raise ValueError("it defines no get_config(); see configs/ for examples.")
        config = made["get_config"]()
    except Exception as error:
        raise ValueError(f"{path}{_line_of(error, path)}: {_text_of(error)}") from error
    if not isinstance(config, kind):
        raise ValueError(
            f"{path}: get_config() returned a {type(config).__name__}; this command "
            f"needs a {kind.__name__}."
        )
    try:
        return config_json.checked(config, kind, "config")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _line_of(error: Exception, path: pathlib.Path) -> str:
    """The line of the file at which an error came up, as `:7`; empty where none is known."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f":{lines[-1]}" if lines else ""


def _text_of(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg}; expected a Python file with get_config()."
    text = str(error)
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}"


def _known() -> str:
    return ", ".join(sorted(path.stem for path in _SHIPPED.glob("*.py")))
