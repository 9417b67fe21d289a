"""The sections of `python -m benchmarks.data`: what they count, not how fast it is."""

import warnings

import numpy as np
import pytest

from benchmarks import (
    data_loader,
    data_prepare,
    data_rows,
    data_steps,
    data_text,
    data_tokenize,
    peers,
)
from benchmarks.data_settings import DataSettings
from benchmarks.measure import Findings, read_findings

NUM_DOCUMENTS = 1_200
WORDS = ("river", "stone", "window", "garden", "teacher", "letter", "village", "music")
ENDINGS = ("", "s", "ed", "ing")


@pytest.fixture
def found(found):
    """found() -> ({(what, unit): figure}, left out)."""

    def read():
        figures, left_out = found()
        return {(f.what, f.unit): f for f in figures}, left_out

    return read


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> DataSettings:
    """Sizes at which every section takes a moment, over a made corpus."""
    folder = tmp_path_factory.mktemp("benchmark")
    rng = np.random.default_rng(0)
    documents = []
    for _ in range(NUM_DOCUMENTS):
        words = rng.choice([f"{w}{e}" for w in WORDS for e in ENDINGS], (6, 7))
        lines = [f"{' '.join(sentence).capitalize()}." for sentence in words]
        documents.append("\n".join(lines))
    (folder / "corpus.txt").write_text("\n\n".join(documents))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS]
    pieces += [f"##{ending}" for ending in ENDINGS if ending]
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    (folder / "work").mkdir()
    return DataSettings(
        workdir=folder / "work",
        source=f"files:{folder}/corpus.txt",
        vocab=folder / "vocab.txt",
        vocab_size=44,
        num_workers=1,
        quick=True,
        repetitions=2,
        sample_bytes=10**6,
        peer_bytes=20_000,
        batch_size=2,
        loader_tokens=1,
        num_steps=3,
        model="tiny",
    )


def test_slices_hold_every_text_once():
    texts = [
        letter * int(size) for letter, size in zip("abcdefg", "9111111", strict=True)
    ]
    for count in (1, 2, 3, 7):
        parts = data_text.slices(texts, count)
        assert [text for part in parts for text in part] == texts
        assert len(parts) == count
        assert all(parts)
    with pytest.raises(ValueError, match="7 documents cannot be shared by 8"):
        data_text.slices(texts, 8)


@pytest.fixture(scope="module")
def prepared(settings, tmp_path_factory) -> dict:
    """What the sections find that the others build on."""
    found = {}
    for name, section, arguments in (
        ("sample", data_text.write_sample, ()),
        ("vocabulary", data_prepare.train_vocabulary, ()),
        ("wordpiece", data_prepare.prepare_on_one_core, ("wordpiece",)),
        ("sentencepiece", data_prepare.prepare_on_one_core, ("sentencepiece",)),
    ):
        path = tmp_path_factory.mktemp("findings") / f"{name}.jsonl"
        with Findings(path) as findings:
            section(settings, findings, *arguments)
        figures, left_out = read_findings(path)
        assert not left_out
        found[name] = {(f.what, f.unit): f for f in figures}
    return found


def test_prepare_is_measured_over_the_whole_text(prepared, settings):
    texts = data_text.read_sample(settings)
    num_bytes = sum(len(text.encode()) for text in texts)
    assert prepared["sample"]["documents of the sample", ""].median == len(texts)
    for kind in ("wordpiece", "sentencepiece"):
        figures = prepared[kind]
        assert figures["text", "MB"].median == num_bytes / 1e6
        seconds = figures["time", "s"].median
        assert figures["speed a core", "MB/s"].median == pytest.approx(
            num_bytes / seconds / 1e6
        )
        stored = figures["stored, shards", "bytes a token"].median
        assert 2.0 < stored < figures["stored, all files", "bytes a token"].median


def test_all_cores_must_write_what_one_has_written(prepared, settings, findings, found):
    data_prepare.prepare_on_all_cores(settings, findings, "wordpiece")
    figures, left_out = found()
    assert figures["shards equal to those of one worker", "files"].median == 2
    assert not left_out
    manifest = settings.prepared("wordpiece") / "manifest.json"
    before = manifest.read_text()
    try:
        manifest.write_text(before.replace('"sha256": {', '"sha256": {"x": "y", '))
        with pytest.raises(ValueError, match="differ from those that one worker"):
            data_prepare.prepare_on_all_cores(settings, findings, "wordpiece")
    finally:
        manifest.write_text(before)


def test_ids_are_compared_with_the_library(prepared, settings, findings, found):
    data_tokenize.tokenize(settings, findings)
    figures, left_out = found()
    assert not left_out
    (differing,) = (
        f for (what, _), f in figures.items() if what.startswith("WordPiece, of")
    )
    assert (differing.median, differing.met) == (0, True)
    for kind in ("WordPiece", "SentencePiece"):
        assert len(figures[f"{kind}, ours, sentences", "MB/s"].values) == 2
        rates = (
            figures[f"{kind}, {name}", "M tokens/s"].values[1]
            for name in ("ours, sentences", "bare, sentences")
        )
        ratio = figures[f"{kind}, ours, sentences / {kind}, bare, sentences", "x"]
        mine, its = rates
        # Same tokens in the same text: MB/s and tokens/s have one ratio.
        assert ratio.values[1] == pytest.approx(mine / its)


def test_other_ids_are_counted(prepared, settings, findings, found, monkeypatch):
    honest = peers.bare_wordpiece

    def other_vocabulary(vocab):
        lines = vocab.read_text().splitlines()
        lines[6], lines[7] = lines[7], lines[6]
        swapped = settings.workdir / "other-vocab.txt"
        swapped.write_text("\n".join(lines))
        return honest(swapped)

    monkeypatch.setattr(peers, "bare_wordpiece", other_vocabulary)
    data_tokenize.tokenize(settings, findings)
    (differing,) = (
        f for (what, _), f in found()[0].items() if what.startswith("WordPiece, of")
    )
    assert differing.median > 0
    assert differing.met is False


def test_epochs_are_described(prepared, settings, findings, found):
    data_rows.plan_epochs(settings, findings)
    data_rows.describe_pairs(settings, findings)
    figures, left_out = found()
    for length in data_rows.LENGTHS:
        density = figures[f"real tokens in packed rows, T={length}", "%"]
        assert len(density.values) == 2
        assert 50.0 < density.median <= 100.0
    padding = figures["padding", "%"].median
    length = figures["length, mean", "tokens"].median
    assert padding == pytest.approx(100 * (1 - length / 128))
    assert 30.0 < figures["next sentence is random", "%"].median < 80.0
    assert figures["masks a row, most", ""].median <= 20
    assert 13.0 < figures["masks of real tokens", "%"].median < 16.0
    shares = [
        figures[f"of masks, {x}", "%"].median
        for x in ("[MASK]", "random token", "kept")
    ]
    assert sum(shares) == pytest.approx(100.0)
    assert not left_out


def test_a_peer_that_is_not_installed_is_named(
    prepared, settings, findings, found, monkeypatch
):
    def missing(*modules):
        raise peers.MissingPeerError("datasets is not installed")

    monkeypatch.setattr(peers, "require", missing)
    data_prepare.prepare_beside_peer(settings, findings)
    data_loader.load_beside_peers(settings, findings)
    figures, left_out = found()
    assert [line.partition(":")[2] for line in left_out] == [
        " MissingPeerError: datasets is not installed"
    ] * 2
    assert figures["ours, one worker", "MB/s"].median > 0
    assert figures["ours", "M tokens/s"].median > 0
    assert figures["ours, 1 worker process", "M tokens/s"].median > 0


@pytest.fixture
def installed():
    """The peers, or a skip that says which one is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own
            peers.require("datasets", "torch", "transformers")
    except peers.MissingPeerError as missing:
        pytest.skip(str(missing))


def test_peers_work_on_the_same_tokens(prepared, settings, tmp_path, installed):
    documents = tmp_path / "documents.jsonl"
    data_prepare.write_documents(documents, settings)
    texts = data_text.read_sample(settings, settings.peer_bytes)
    bare = peers.bare_wordpiece(settings.vocab)
    cls, sep, mask = (bare.token_to_id(piece) for piece in ("[CLS]", "[SEP]", "[MASK]"))
    tokens = [
        token
        for text in texts
        for token in [cls, *bare.encode(text, add_special_tokens=False).ids, sep]
    ]
    blocks = peers.prepare_with_datasets(documents, settings.vocab, tmp_path / "c", 32)
    flat = [token for row in blocks for token in row["input_ids"]]
    assert flat == tokens[: len(tokens) // 32 * 32]
    assert peers.stored_bytes(blocks) > 4 * len(flat)

    for tensors in ("pt", "np"):
        batches = list(
            peers.collated_batches(blocks, settings.vocab, 4, tensors=tensors)
        )
        assert sum(map(peers.num_real_tokens, batches)) == len(flat)
        labels = np.concatenate([np.asarray(b["labels"]).ravel() for b in batches])
        ids = np.concatenate([np.asarray(b["input_ids"]).ravel() for b in batches])
        hidden = labels != -100
        assert 0.1 < hidden.mean() < 0.2
        assert not np.isin(labels, [cls, sep]).any()
        assert (ids[hidden] == mask).mean() > 0.7


def test_a_step_is_split_into_its_parts(
    prepared, settings, findings, found, monkeypatch
):
    monkeypatch.setattr(data_steps, "_BATCH_SIZES", {32: 8})
    monkeypatch.setattr(data_steps, "_LOG_EVERY_STEPS", 1)
    data_steps.train_briefly(settings, findings)
    figures, left_out = found()
    assert not left_out
    (step,) = (f for (what, _), f in figures.items() if what.startswith("step, "))
    assert len(step.values) == settings.num_steps - 1
    waiting = figures["of it waiting for input, T=32", "%"]
    assert all(0.0 <= share < 100.0 for share in waiting.values)
    for unit in ("token", "word", "span"):
        spent = figures[f"masking by {unit}, T=32", "ms"].values
        shares = figures[f"of it masking by {unit}, T=32", "%"].values
        assert shares == pytest.approx([x / 10 / step.median for x in spent])


def test_steps_are_timed_between_the_lines_of_a_log():
    lines = [{"step": 5, "elapsed_secs": 9.0}, {"step": 10, "elapsed_secs": 19.0}]
    assert data_steps.step_seconds(lines) == [2.0]
