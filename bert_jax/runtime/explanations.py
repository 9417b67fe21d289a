"""Says in a sentence or two what the system, JAX or XLA could not do.

These errors are nobody's mistake in the program: a full disk, too little memory, a
platform that is not there. Needs no JAX, so that any command can ask.
"""

import contextlib
import errno
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Iterator

_ROOM = "Make room there, then start the same command again."
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "Raise the limit of file sizes (`ulimit -f`), then start again.",
    errno.EROFS: "Choose a directory that can be written.",
    errno.EACCES: "Change the permissions, or choose another path.",
    errno.EPERM: "Change the permissions, or choose another path.",
    errno.EMFILE: "Raise the limit of open files (`ulimit -n`), then start again.",
    errno.EIO: "The disk or the network storage fails; look into the system's log.",
}
_OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_MEMORY = (
    "Lower --batch-size or the sequence length, raise --micro-batches, or pass "
    "--compute.remat full, as far as the command has these flags; or end what else uses "
    "the memory."
)


def explanation(error: BaseException) -> str | None:
    """What to tell the user, or `None`: the error is one of the program's own."""
    text = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return _of_system(error)
    if isinstance(error, MemoryError):
        reason = f" ({text})" if text else ""
        return f"this machine has too little memory{reason}. {_MEMORY}"
    if (number := _hidden_number(error)) is not None:
        return f"{_reason(number)} ({_first_line(text)}). {_REMEDIES[number]}"
    if _is_of_jax(error):
        if not re.search("RESOURCE_EXHAUSTED|[Oo]ut of memory", text):
            return None
        return f"the device has too little memory ({_first_line(text)}). {_MEMORY}"
    if _is_missing_platform(error):
        return _of_platform(text)
    return None


def system_reason(error: BaseException) -> str | None:
    """What the system refused, such as `no space left on device`; `None`: nothing.

    TensorStore hides the number of the system's error in its text.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := re.search(r"os_error_code='(\d+)'", str(error))):
        number = int(found[1])
    return None if number is None else _reason(number)


def is_of_disk(error: BaseException) -> bool:
    """Whether a disk refused to take more, so that other writes fail in the same way."""
    return isinstance(error, OSError) and error.errno in _OF_DISK


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
    """Names a path in the error of a disk that refuses to take more, if it names none."""
    try:
        yield
    except Exception as error:
        number = _hidden_number(error)
        if number is None or getattr(error, "filename", None) is not None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _hidden_number(error: BaseException) -> int | None:
    """That of a disk's error, of which ArrayRecord and safetensors give the text alone."""
    if isinstance(error, ValueError):  # a sentence of ours
        return None
    return next((x for x in _OF_DISK if os.strerror(x) in str(error)), None)


def _of_system(error: OSError) -> str:
    assert error.errno is not None
    places = [str(x) for x in (error.filename, error.filename2) if x is not None]
    where = f"{' -> '.join(places) or 'standard output, or a file of the command'}: "
    remedy = _REMEDIES.get(error.errno, "")
    return f"{where}{_reason(error.errno)}. {remedy}".strip()


def _reason(number: int) -> str:
    text = os.strerror(number)
    return text[:1].lower() + text[1:]


def _is_of_jax(error: BaseException) -> bool:
    jax = sys.modules.get("jax")  # without JAX, nothing has raised its errors
    return jax is not None and isinstance(error, jax.errors.JaxRuntimeError)


def _is_missing_platform(error: BaseException) -> bool:
    if isinstance(error, RuntimeError):
        said = "Unable to initialize backend", "Unknown backend", "Backend '"
        return str(error).startswith(said)
    # JAX 0.10 asserts that one of the platforms of JAX_PLATFORMS is there.
    frames = traceback.extract_tb(error.__traceback__)
    in_jax = bool(frames) and frames[-1].filename.endswith("xla_bridge.py")
    return isinstance(error, AssertionError) and in_jax


def _of_platform(text: str) -> str:
    name = "JAX_PLATFORMS" if "JAX_PLATFORMS" in os.environ else "JAX_PLATFORM_NAME"
    reason = f" ({_first_line(text)})" if text else ""
    if name not in os.environ:
        return (
            f"JAX finds no device that it can use{reason}. Set JAX_PLATFORMS=cpu to run on "
            "the CPU."
        )
    return (
        f"{name}={os.environ[name]} asks for a platform that JAX does not find on this "
        f"machine{reason}. Unset {name} to take what is there, set it to cpu, or install "
        "the platform's driver and its extra (pip install 'bert_jax[cuda]' or "
        "'bert_jax[tpu]')."
    )


def _first_line(text: str) -> str:
    line = text.strip().split("\n")[0]
    return re.sub(r" \(set JAX_PLATFORMS=''.*", "", line)[:300].rstrip(".")
