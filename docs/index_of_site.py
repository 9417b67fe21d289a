"""Makes one site of the README and docs/, whose links between each other are relative.

A hook of MkDocs (`mkdocs.yml`). MkDocs knows the files of one folder below its config;
here every page keeps its place in the repository, so that links work there, too.
"""

import pathlib
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[1]
_PAGES = (
    *(
        "*.md",
        "docs/**/*.md",
        "launch/*.md",
        "benchmarks/*.md",
        "benchmarks/results/*.md",
    ),
    *(
        "docs/**/*.svg",
        "docs/**/*.dot",
        "docs/**/*.csv",
        "docs/**/*.ipynb",
        "benchmarks/results/*.json",
    ),
)


def on_files(files: Files, config: Any) -> Files:
    """Replaces the files of docs/ by those of the repository."""
    kept = [file for file in files if not str(file.abs_src_path).startswith(str(ROOT))]
    places = sorted({path for form in _PAGES for path in ROOT.glob(form)})
    made = [
        File(
            str(path.relative_to(ROOT)),
            str(ROOT),
            config.site_dir,
            config.use_directory_urls,
        )
        for path in places
    ]
    return Files([*made, *kept])
