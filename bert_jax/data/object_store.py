"""Folders of an object store (gs://, s3://): files go there and come from there whole.

Stores are reached through fsspec, with gcsfs and s3fs (`pip install 'bert_jax[buckets]'`).
A store has no folders that could be renamed. So what belongs together is complete when
its manifest is there, which is written last and deleted first.
"""

import concurrent.futures
import contextlib
import errno
import fcntl
import importlib
import logging
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from bert_jax.config.address import address_of
from bert_jax.data.atomic_file import write_atomically
from bert_jax.data.cache_folder import cache_folder
from bert_jax.data.hashes import file_sha256
from bert_jax.data.prepared.format import MANIFEST
from bert_jax.data.prepared.manifest import read_manifest

T = TypeVar("T")

_AT_ONCE = 8
# The libraries themselves try about half a minute; these pauses come between.
_PAUSES_SECS = (1.0, 4.0)
_SILENT_SECS = 60.0
_PARTIAL = ".partial"
_REFUSED = ("credential", "forbidden", "denied", "anonymous", "unauthorized")
_OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class StoreFolder:
    """One folder of an object store.

    All methods try again what may be a passing fault: a refused connection, a server that
    is overloaded or silent, a body that was cut.

    Raises:
        ValueError: no library here knows such addresses.
    """

    def __init__(self, address: str) -> None:
        import fsspec

        self.address = address
        scheme = address.partition("://")[0]
        try:
            self._fs: Any = fsspec.filesystem(scheme, **_options(scheme))
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"{address}: bert_jax reads and writes gs:// and s3://, with the libraries "
                f"of `pip install 'bert_jax[buckets]'` ({error})."
            ) from None
        self._root = self._fs._strip_protocol(address)
        # Else gcsfs tries each of six tries six times: a dead server is waited for for long.
        self._get_options = {"concurrency": 1} if scheme == "gs" else {}

    def __str__(self) -> str:
        return self.address

    def sizes(self) -> dict[str, int]:
        """Bytes of each file below the folder, by its name from there; maybe none.

        Raises:
            FileNotFoundError: there is no such bucket.
            ValueError: a file has a name that would lead out of a folder.
            OSError: the store does not answer, or refuses.
        """
        start = f"{self._root}/"
        found = self._do("", self._fs.find, self._root, detail=True)
        sizes = {}
        for path, facts in found.items():
            name = path.removeprefix(start)
            if name in ("", path) or name.endswith("/") or facts["type"] != "file":
                continue  # programs that show folders make empty objects for them
            if name.startswith("/") or ".." in name.split("/"):
                raise ValueError(
                    f"{self}/{name}: a file of this name cannot be copied to a folder of "
                    "this machine. Delete or rename it in the store."
                )
            sizes[name] = facts["size"]
        return sizes

    def read(self, name: str) -> bytes | None:
        """The content of a small file; `None` if it is not there."""
        with contextlib.suppress(FileNotFoundError):
            content: bytes = self._do(name, self._fs.cat_file, self._path(name))
            return content
        return None

    def write(self, name: str, content: bytes, *, is_new: bool = False) -> None:
        """Writes a small file.

        Raises:
            FileExistsError: `is_new` is set, and the file is there.
        """
        mode = "create" if is_new else "overwrite"
        self._do(name, self._fs.pipe_file, self._path(name), content, mode=mode)

    def put(self, source: pathlib.Path, names: Iterable[str]) -> None:
        """Copies files of a local folder into this one.

        Raises:
            OSError: one cannot be read or written, or is not as long as here.
        """
        names = list(names)

        def put(name: str) -> None:
            self._do(name, self._fs.put_file, str(source / name), self._path(name))

        _at_once(put, names)
        if not names:
            return
        sizes = self.sizes()
        for name in names:
            if sizes.get(name) != (source / name).stat().st_size:
                raise OSError(f"{self}/{name} is not as long as what was written.")

    def get_small(self, target: pathlib.Path, names: Iterable[str]) -> None:
        """Copies small files into a local folder; somebody may be writing them."""
        for name in names:
            if (content := self.read(name)) is not None:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(target / name, content)

    def get(self, target: pathlib.Path, sizes: dict[str, int]) -> None:
        """Copies files of this folder into a local one, with a bar if it takes long.

        Files that are there with the right length are kept, so that an interrupted copy
        goes on.

        Args:
            target: local folder.
            sizes: bytes of each file that is wanted, by its name.

        Raises:
            FileNotFoundError: a file is not there any more.
            OSError: one cannot be read or written.
        """
        import tqdm

        with tqdm.tqdm(
            desc=f"copying {self}",
            total=sum(sizes.values()),
            unit="B",
            unit_scale=True,
            delay=2.0,
        ) as bar:

            def get(name: str) -> None:
                path = target / name
                if not path.is_file() or path.stat().st_size != sizes[name]:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self._do(name, self._get_whole, name, path, sizes[name])
                bar.update(sizes[name])

            _at_once(get, sizes)

    def delete(self, names: Iterable[str]) -> None:
        """Deletes files one by one; those that are not there are no error."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._do(name, self._fs.rm_file, self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _get_whole(self, name: str, path: pathlib.Path, size: int) -> None:
        partial = path.with_name(path.name + _PARTIAL)
        self._fs.get_file(self._path(name), str(partial), **self._get_options)
        if (found := partial.stat().st_size) != size:
            raise ConnectionError(f"{found:,} of its {size:,} bytes came")
        partial.replace(path)

    def _do(
        self, name: str, function: Callable[..., T], *args: Any, **options: Any
    ) -> T:
        for pause in (*_PAUSES_SECS, None):
            try:
                return function(*args, **options)
            except (FileNotFoundError, FileExistsError) as error:
                if name:
                    raise
                raise FileNotFoundError(self._said("", error)) from None
            except Exception as error:
                if isinstance(error, OSError) and error.errno in _OF_DISK:
                    raise OSError(
                        error.errno, error.strerror, str(cache_folder("buckets"))
                    ) from error
                if pause is None or _is_refused(error):
                    raise OSError(self._said(name, error)) from error
                print(
                    f"note: {self}/{name} is tried again ({_short(error)})", flush=True
                )
            time.sleep(pause)
        raise AssertionError

    def _said(self, name: str, error: Exception) -> str:
        what = f"{self}/{name}" if name else str(self)
        if isinstance(error, FileNotFoundError):
            return f"{what}: there is no such bucket, or you may not see it."
        reason = _short(error)
        if _is_refused(error):
            return (
                f"{what}: the store refuses ({reason}). For gs://, log in with `gcloud auth "
                "application-default login`; for s3://, set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY or AWS_PROFILE; and look at the rights that you have "
                "to the bucket."
            )
        return (
            f"{what}: the store did not do it after several tries ({reason}). Start the "
            "same command again when it answers."
        )


def local_copy_of(address: str, kind: str, end: str = "") -> pathlib.Path:
    """The folder of the user's cache that stands for an address; it need not exist."""
    return cache_folder("buckets") / kind / (address.replace("://", "/") + end)


@contextlib.contextmanager
def alone_in(folder: pathlib.Path) -> Iterator[None]:
    """Waits until no other process of this machine fetches into a folder of the cache."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def dataset_here(directory: pathlib.Path) -> pathlib.Path:
    """A prepared dataset on this machine's disk: the folder itself, or the copy of a store.

    The copy is kept, and taken again as long as the store has the same manifest. What an
    interrupted copy has fetched is kept too.

    Raises:
        FileNotFoundError: there is no finished dataset at the address.
        ValueError: a file does not have the hash in the manifest; it is named.
        OSError: the store does not answer, or refuses.
    """
    address = address_of(directory)
    if address is None:
        return directory
    store, home = StoreFolder(address), _home(address)
    with alone_in(home):
        told = store.read(MANIFEST)
        if told is None:
            raise FileNotFoundError(
                f"{address} holds no finished dataset ({MANIFEST} is missing). `bert-jax "
                f"prepare --output {address}` makes one."
            )
        if (home / MANIFEST).is_file() and (home / MANIFEST).read_bytes() == told:
            return home
        begun = home / ".begun" / MANIFEST
        if not begun.is_file() or begun.read_bytes() != told:
            shutil.rmtree(home, ignore_errors=True)
            begun.parent.mkdir(parents=True)
            begun.write_bytes(told)
        try:
            manifest = read_manifest(begun.parent)
        except ValueError as error:
            raise ValueError(str(error).replace(str(begun.parent), address)) from None
        store.get(home, _files_of_dataset(store.sizes()))
        _check_hashes(home, address, manifest)
        if store.read(MANIFEST) != told:
            raise OSError(f"{address} was changed meanwhile; start the command again.")
        begun.replace(home / MANIFEST)
    return home


@contextlib.contextmanager
def prepared_here(output: str) -> Iterator[pathlib.Path]:
    """Gives the local folder to prepare a dataset in, and copies it to its address.

    Raises:
        OSError: the store does not answer, or refuses.
    """
    address = address_of(output)
    if address is None:
        yield pathlib.Path(output)
        return
    store = StoreFolder(address)
    is_there = store.read(MANIFEST) is not None
    home = dataset_here(pathlib.Path(output)) if is_there else _home(address)
    yield home
    content = (home / MANIFEST).read_bytes()
    if store.read(MANIFEST) == content:
        return
    files = [path for path in home.rglob("*") if path.is_file()]
    sizes = {x.relative_to(home).as_posix(): x.stat().st_size for x in files}
    store.delete([MANIFEST])
    store.put(home, _files_of_dataset(sizes))
    store.write(MANIFEST, content)


def _home(address: str) -> pathlib.Path:
    return local_copy_of(address, "datasets")


def _files_of_dataset(sizes: dict[str, int]) -> dict[str, int]:
    """Without the manifest, and without what is laid out beside the shards."""
    skipped = (".", "index/", MANIFEST)
    return {name: x for name, x in sizes.items() if not name.startswith(skipped)}


def _check_hashes(home: pathlib.Path, address: str, manifest: dict[str, Any]) -> None:
    hashes = {**manifest["sha256"], **manifest["metadata_sha256"]}

    def check(name: str) -> None:
        path = home / name
        if path.is_file() and file_sha256(path) == hashes[name]:
            return
        path.unlink(missing_ok=True)
        raise ValueError(
            f"{address}/{name} is missing, or does not have the hash in {MANIFEST}. Copy "
            "the file into the store again, or prepare the dataset again."
        )

    _at_once(check, hashes)


def _at_once(function: Callable[[str], None], names: Iterable[str]) -> None:
    """Calls a function for each name in several threads; stops at the first error."""
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(function, names))  # an error cancels the calls not yet begun


def _options(scheme: str) -> dict[str, Any]:
    """What the libraries are told: no old lists, and an end of waiting for a silent server."""
    if scheme == "gs":
        # Folders are never renamed here, so the kind of the bucket does not matter; to
        # find it out, gcsfs would speak another protocol with further rights.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # the errors say it
        timeouts = importlib.import_module("aiohttp").ClientTimeout
        silent = timeouts(sock_connect=_SILENT_SECS, sock_read=_SILENT_SECS)
        return {"use_listings_cache": False, "requests_timeout": silent}
    return {"use_listings_cache": False}


def _is_refused(error: Exception) -> bool:
    if isinstance(error, PermissionError) or getattr(error, "code", None) in (401, 403):
        return True
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in _REFUSED)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
