"""What is published: the wheel by itself, versions that agree, pages that build."""

import configparser
import importlib
import os
import pathlib
import re
import subprocess
import sys
import sysconfig
import venv

import pytest
from conftest import IN_CI
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from test_command_lines import ROOT

import bert_jax

README = (ROOT / "README.md").read_text("utf-8")


def needed(module: str, extra: str):
    """A module of an extra; its absence is a failure in CI only."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if IN_CI:
            raise
        pytest.skip(f"{missing}; install .[{extra}]")


def test_the_readme_is_one_page_with_the_two_commands():
    assert len(README.encode()) <= 7 * 1024
    assert re.search(r"<!-- test command -->\n```bash\n.+pytest\n```", README)
    assert "bert-jax quickstart" in README
    pictures = re.findall(r"!\[.+\]\((.+)\)", README)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)


def test_one_version_everywhere():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {bert_jax.__version__}\n" in citation
    assert f"## {bert_jax.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_what_ci_installs_is_in_the_ranges():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    ranges = [
        *settings["options"]["install_requires"].splitlines(),
        *(
            line
            for x in settings["options.extras_require"].values()
            for line in x.splitlines()
        ),
    ]
    seen = 0
    for line in filter(None, ranges):
        asked = Requirement(line)
        name = re.sub(r"[-_.]+", "-", asked.name).lower()
        if name != "libtpu":  # the extras take different ones
            assert asked.specifier.contains(pinned[name]), line
            seen += 1
    assert seen > 50


def test_promised_versions_are_those_that_ran():
    """Classifiers and ranges name what the table of the installation page names."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    install = (ROOT / "docs" / "install.md").read_text("utf-8")
    ran = re.findall(r"^\| (3\.\d+) \| (0\.\d+)\.\d+ \|", install, re.MULTILINE)
    pythons = {python for python, _ in ran}
    classifiers = settings["metadata"]["classifiers"]
    assert set(re.findall(r"Python :: (3\.\d+)", classifiers)) == pythons
    allowed = SpecifierSet(settings["options"]["python_requires"])
    assert {f"3.{x}" for x in range(30) if allowed.contains(f"3.{x}")} == pythons
    [jax] = re.findall(r"^jax(.+)", settings["options"]["install_requires"], re.M)
    allowed = SpecifierSet(jax)
    # A series is in the range if its late releases are.
    series = {f"0.{x}" for x in range(30) if allowed.contains(f"0.{x}.9")}
    assert series == {jax for _, jax in ran}


def test_the_reference_is_what_the_source_says():
    generate = ROOT / "docs" / "generate.py"
    names: dict = {"__name__": "generate", "__file__": str(generate)}
    exec(compile(generate.read_text("utf-8"), str(generate), "exec"), names)
    for name, make in names["PAGES"].items():
        committed = (ROOT / "docs" / "reference" / name).read_text("utf-8")
        assert committed == make(), f"{name} is stale: python docs/generate.py"


@pytest.mark.slow(ci=False)
def test_the_site_builds(tmp_path):
    needed("mkdocs", "docs")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        check=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert "Two commands" in (tmp_path / "index.html").read_text("utf-8")
    assert (tmp_path / "docs" / "reference" / "python" / "index.html").is_file()


@pytest.mark.slow(ci=False)
def test_the_wheel_alone_runs_quickstart(tmp_path):
    """In an environment that has the libraries of this one and, of us, the wheel alone."""
    needed("build", "test")
    needed("twine", "test")
    made = tmp_path / "dist"
    build = ("build", "--no-isolation", "--outdir", made, ROOT)
    subprocess.run([sys.executable, "-m", *build], check=True, capture_output=True)
    files = sorted(made.iterdir())
    assert [file.suffix for file in files] == [".whl", ".gz"]
    check = ("twine", "check", "--strict", *files)
    subprocess.run([sys.executable, "-m", *check], check=True, capture_output=True)

    home = tmp_path / "home"
    venv.create(home, with_pip=True)
    [place] = home.glob("lib/python*/site-packages")
    libraries = sysconfig.get_paths()["purelib"]
    (place / "libraries.pth").write_text(libraries + "\n")
    [wheel] = made.glob("*.whl")
    pip = ("pip", "install", "--no-deps", "--no-index", "--ignore-installed", wheel)
    subprocess.run([home / "bin/python", "-m", *pip], check=True, capture_output=True)

    # Nothing of the clone may help.
    bare = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"}
    aside = {"cwd": tmp_path, "env": bare, "text": True}

    def run(*args: str) -> str:
        done = subprocess.run(
            [home / "bin/bert-jax", *args], capture_output=True, **aside
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    assert "quickstart" in run("--help")
    where = "import bert_jax; print(bert_jax.__file__)"
    found = subprocess.check_output([home / "bin/python", "-c", where], **aside)
    assert pathlib.Path(found.strip()).is_relative_to(home)
    said = run(
        *("quickstart", "--packages", "flax", "orbax", "--vocab-size", "800"),
        *("--num-steps", "4", "--max-train", "200"),
    )
    assert f"config: {home}/share/bert_jax/configs/quickstart.py" in said
    assert (tmp_path / "quickstart" / "report" / "report.html").is_file()
