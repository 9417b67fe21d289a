"""Opens `docs:` or `docs:numpy,jax`, the documentation of packages installed here."""

import glob

from bert_jax.data.cache_folder import cache_folder
from bert_jax.data.text import docs
from bert_jax.data.text.files_source import open_files
from bert_jax.data.text.sections import Request, Source


def open_docs(request: Request) -> Source:
    """The files that `write_docs_corpus` writes, unless they are there already.

    Raises:
        ValueError: a named package is not installed, or nothing is documented.
    """
    packages = [name.strip() for name in request.rest.split(",") if name.strip()]
    folder = cache_folder("-".join(["docs", *packages]))
    docs.write_docs_corpus(
        folder, packages=packages or None, num_workers=request.num_workers
    )
    pattern = f"{glob.escape(str(folder))}/{docs.FILE_PATTERN}"
    found = open_files(request._replace(rest=pattern))
    return Source((request.spec,), found.sections)
