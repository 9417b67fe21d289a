"""Eight CPU devices, strict JAX modes and shared tiny inputs for every test."""

import gc
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import warnings
from typing import Any

# Compile time dominates these tests; XLA's optimisations buy nothing here.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
).strip()

import jax
import jaxlib
import numpy as np
import pytest
from hypothesis import settings

# Else Python looks for cycles among the millions of objects of the libraries all the time.
gc.set_threshold(100_000, 50, 100)
# A busy machine is no failure; CI times whole suites.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

import compiled_once  # noqa: E402
import prepared_corpus  # noqa: E402
import reference  # noqa: E402
from text_heads import text_head  # noqa: E402, F401

from bert_jax.batch import (  # noqa: E402
    ClassifyBatch,
    MaskVocabulary,
    PretrainBatch,
    SpecialIds,
)
from bert_jax.config import ModelConfig  # noqa: E402
from bert_jax.data.prepared.store import TokenStore  # noqa: E402

compiled_once.keep_compiled()
SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"
IN_CI = os.environ.get("CI") == "true"


def pytest_configure(config: pytest.Config) -> None:
    # Background jobs may ignore SIGINT and SIGHUP, and so would all that the tests start.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # XLA's newer emitters of fused loops take twice as long to compile for a CPU as the
    # older ones (measured: 6.4 s and 2.5 s for a gradient of `tiny`). CI tries what users
    # run. XLA ends a process that gives it a flag it does not know.
    if not config.getoption("--slow") and jaxlib.__version__.startswith("0.10."):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow",
        action="store_true",
        help="Run the tests marked `slow` too: they start processes or compile for TPUs.",
    )


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    if config.getoption("--slow"):
        return
    left_out = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker("slow")]


# test_own_process.py and test_extending.py run these.
_APART = {"own_process": "BERT_JAX_OWN_PROCESS", "added_code": "BERT_JAX_ADDED_CODE"}
collect_ignore = [x for x, variable in _APART.items() if variable not in os.environ]


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Folder of real data beside the repository, where there is one."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder}, which holds real text and labels, is not here")
    return folder


# Of the scope of a file: what one file does to its dataset, another must not see.
@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[str, list[dict], pathlib.Path]:
    """(source, its records, a directory with a tokenizer of it)."""
    return prepared_corpus.make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def dataset(corpus, tmp_path_factory) -> pathlib.Path:
    """A finished dataset of four shards; leave it as it is."""
    output = tmp_path_factory.mktemp("prepared") / "dataset"
    prepared_corpus.prepared(corpus, output)
    return output


@pytest.fixture
def damaged(dataset, tmp_path) -> pathlib.Path:
    """A copy to damage."""
    return prepared_corpus.copy_of(dataset, tmp_path)


@pytest.fixture(scope="module")
def transformers():
    """The library, with its warnings as errors."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own
            import torch  # noqa: F401
            import transformers
    except ModuleNotFoundError as missing:
        if IN_CI:
            raise
        pytest.skip(f"{missing}; install .[export]")
    return transformers


@pytest.fixture(scope="module")
def hf(transformers):
    """transformers, and torch beside it."""
    import torch

    transformers.torch = torch
    return transformers


@pytest.fixture
def silent(transformers):
    """Fails the test when transformers logs a warning: it does not raise them."""
    records: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    assert not records


@pytest.fixture(scope="module")
def tf():
    """TensorFlow; it writes some lines to stderr, which no setting of ours stops."""
    try:
        import tensorflow
    except ModuleNotFoundError as missing:
        if IN_CI:
            raise
        pytest.skip(f"{missing}; install .[tf]")
    return tensorflow


@pytest.fixture(scope="session")
def libtpu():
    """The compiler for TPUs; no TPU is needed."""
    try:
        import libtpu
    except ModuleNotFoundError as missing:
        if IN_CI:
            raise
        pytest.skip(f"{missing}; install .[aot]")
    return libtpu


@pytest.fixture(scope="session")
def special() -> SpecialIds:
    return SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)


@pytest.fixture(scope="session")
def vocabulary(special) -> MaskVocabulary:
    """61 pieces, of which every third goes on with a word."""
    pieces = np.arange(61)
    return MaskVocabulary(special, pieces.size, (pieces > 4) & (pieces % 3 > 0))


@pytest.fixture(scope="session")
def mask(vocabulary):
    """mask(batch, seed=0, cfg=MaskingConfig(), vocabulary=...) with NumPy results."""
    from bert_jax.config import MaskingConfig
    from bert_jax.model.masking import mask_tokens

    jitted = jax.jit(mask_tokens, static_argnums=(0, 2))

    def run(batch: PretrainBatch, seed=0, cfg=MaskingConfig(), vocabulary=vocabulary):  # noqa: B008
        masked = jitted(cfg, batch, vocabulary, jax.random.key(seed))
        return jax.tree.map(np.asarray, masked)

    return run


@pytest.fixture(scope="session")
def make_store():
    """make_store([[3, 2], [4]]): documents of sentences of so many tokens.

    The token at offset n has id n + 5, so that every one can be recognised.
    """

    def starts(lengths) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def make(documents: list[list[int]]) -> TokenStore:
        sentences = starts([n for document in documents for n in document])
        tokens = np.arange(5, sentences[-1] + 5, dtype=np.uint32)
        return TokenStore(tokens, sentences, starts([len(d) for d in documents]))

    return make


@pytest.fixture(scope="session")
def tiny() -> ModelConfig:
    """No two sizes agree, so that a transposed tensor cannot fit."""
    return ModelConfig(
        vocab_size=61,
        hidden_size=32,
        num_layers=3,
        num_heads=4,
        mlp_size=48,
        max_positions=24,
    )


@pytest.fixture(scope="session")
def random_params():
    """random_params(cfg, seed=0): pretraining parameters without a zero in them."""

    def make(cfg: ModelConfig, seed: int = 0) -> dict:
        return reference.random_params(reference.pretrain_shapes(cfg), seed)

    return make


@pytest.fixture(scope="session")
def make_batch(special):
    """make_batch(rows=…, length=…, pairs=…, vocab_size=…, seed=…) -> PretrainBatch.

    Row 0 holds `pairs` pairs, row 1 one less, and so on, then from the start again.
    Every third row is full; the others end in padding.
    """

    def make(rows=3, length=24, pairs=3, vocab_size=61, seed=0) -> PretrainBatch:
        rng = np.random.default_rng(seed)
        ids, segments, sequences, positions = np.zeros((4, rows, length), np.int32)
        cls_positions, nsp_labels = np.zeros((2, rows, pairs), np.int32)
        nsp_weights = np.zeros((rows, pairs), np.float32)
        for b in range(rows):
            count = pairs - b % pairs
            spare = 0 if b % 3 == 1 else int(rng.integers(2, 5))
            room = max(5 * count, length - spare)
            start = 0
            for p in range(count):
                left = count - 1 - p
                most = room - start - 5 * left
                size = int(rng.integers(5, most + 1)) if left else most
                at = slice(start, start + size)
                first_sep = int(rng.integers(2, size - 2))
                ids[b, at] = rng.integers(5, vocab_size, size)
                ids[b, start] = special.cls
                ids[b, [start + first_sep, start + size - 1]] = special.sep
                segments[b, at] = np.arange(size) > first_sep
                sequences[b, at] = p + 1
                positions[b, at] = np.arange(size)
                cls_positions[b, p] = start
                nsp_labels[b, p] = rng.integers(0, 2)
                nsp_weights[b, p] = 1.0
                start += size
        return PretrainBatch(
            ids,
            segments,
            sequences,
            positions,
            cls_positions,
            nsp_labels,
            nsp_weights,
        )

    return make


@pytest.fixture(scope="session")
def make_masked(special):
    """make_masked(batch, slots=4, seed=0) -> MaskedBatch, without `mask_tokens`.

    Row b fills 1 + b % slots of its slots, so that rows weigh differently.
    """
    from bert_jax.model.masking import MaskedBatch

    def make(batch: PretrainBatch, slots=4, seed=0) -> MaskedBatch:
        rng = np.random.default_rng(seed)
        ids = batch.input_ids.copy()
        positions, labels = np.zeros((2, len(ids), slots), np.int32)
        weights = np.zeros((len(ids), slots), np.float32)
        for b in range(len(ids)):
            free = np.flatnonzero(batch.input_ids[b] > special.mask)
            chosen = np.sort(rng.choice(free, 1 + b % slots, replace=False))
            positions[b, : chosen.size] = chosen
            labels[b, : chosen.size] = ids[b, chosen]
            weights[b, : chosen.size] = 1.0
            ids[b, chosen] = special.mask
        return MaskedBatch(ids, positions, labels, weights)

    return make


@pytest.fixture(scope="session")
def make_classify_batch():
    """make_classify_batch(seed=0): three rows, one full, two with padding."""

    def make(seed: int = 0) -> ClassifyBatch:
        rng = np.random.default_rng(seed)
        ids = rng.integers(5, 61, (3, 20)).astype(np.int32)
        mask = (np.arange(20) < np.array([[20], [13], [5]])).astype(np.int32)
        segments = (np.arange(20) >= np.array([[20], [6], [2]])).astype(np.int32) * mask
        labels, weights = np.array([0, 2, 1], np.int32), np.ones(3, np.float32)
        return ClassifyBatch(ids * mask, segments, mask, labels, weights)

    return make


@pytest.fixture
def compiled_for_gpus():
    """compiled_for_gpus(what): what gpu_compiler.py says of it, in its own process."""
    folder = os.environ.get("BERT_JAX_GPU_COMPILER", f"{sys.prefix}/gpu_compiler")
    if not (pathlib.Path(folder) / "jax_plugins").is_dir():
        (pytest.fail if IN_CI else pytest.skip)(
            f"no compiler for GPUs in {folder}: pip install --no-deps --target {folder} "
            f"jax-cuda13-plugin=={jaxlib.__version__} jax-cuda13-pjrt=={jaxlib.__version__}"
        )

    def run(what: str) -> dict[str, Any]:
        root = pathlib.Path(__file__).resolve().parents[1]
        told = subprocess.run(
            [sys.executable, "tests/gpu_compiler.py", what],
            cwd=root,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "PYTHONPATH": f"{folder}{os.pathsep}{root}",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert told.returncode == 0, told.stderr
        return json.loads(told.stdout)

    return run


@pytest.fixture
def refused(capsys):
    """refused(*args, code=1): what `bert-jax ARGS` says when it ends with this code."""
    from bert_jax import cli

    def run(*args: object, code: int = 1) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([*map(str, args)])
        assert ended.value.code == code
        return capsys.readouterr().err

    return run


@pytest.fixture
def record_route(request):
    """record_route(route, difference): a line of the table at the end."""
    # Properties of a test travel from the worker processes; a stash does not.
    return lambda route, difference: request.node.user_properties.append(
        ("route", f"| {route} | {difference} |")
    )


def pytest_terminal_summary(terminalreporter):
    lines = [
        line
        for report in terminalreporter.stats.get("passed", ())
        for name, line in report.user_properties
        if name == "route" and report.when == "call"
    ]
    if lines:
        terminalreporter.section("routes and their largest measured differences")
        for line in sorted(lines):
            terminalreporter.write_line(line)
