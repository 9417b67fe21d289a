"""Several datasets in one run: their shares, their epochs, their phases and their scores."""

import contextlib
import dataclasses
import shutil

import numpy as np
import pytest
from prepared_corpus import make_corpus, prepared
from small_pretraining import SMALL, one_device  # noqa: F401
from store_rows import assert_same, joined, rows_of_store

from bert_jax import cli
from bert_jax.batch import PretrainBatch
from bert_jax.config import DataConfig, PhaseConfig, PretrainConfig
from bert_jax.data.batches.documents import documents_of_batch
from bert_jax.data.batches.loader import train_batches
from bert_jax.data.batches.mixture import PERIOD, MixedRows, order_of
from bert_jax.data.prepared.corpus import open_corpus
from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.data.prepared.leaks import describe_leaks
from bert_jax.data.tokenizers.vocabulary import train_sentencepiece
from bert_jax.train.monitoring.metrics import read_metrics
from bert_jax.train.train_rows import open_train_rows

SHARES = (0.5, 0.0, 0.3, 0.2)
CFG = DataConfig(sequence_length=24, pairs="none")


@pytest.fixture(scope="module")
def stores(make_store):
    rng = np.random.default_rng(1)
    return [
        make_store([rng.integers(1, 15, rng.integers(1, 9)) for _ in range(size)])
        for size in (40, 20, 12, 30)
    ]


def mixed(stores, special, cfg=CFG, taken=(0, 0, 0, 0), batch_size=None) -> MixedRows:
    rows = [
        rows_of_store(store, cfg, special, seed=3, batch_size=batch_size)
        for store in stores
    ]
    return MixedRows(rows, SHARES, taken)


@pytest.mark.parametrize(
    "shares", [(0.5, 0.0, 0.3, 0.2), (1.0, 3.0, 7.0), (1.0,), [1e-4, 1]]
)
def test_any_stretch_of_rows_has_the_shares_that_were_asked_for(shares):
    order = order_of(shares)
    assert order.size == PERIOD
    for number, share in enumerate(np.asarray(shares) / np.sum(shares)):
        taken = np.append(0, np.cumsum(np.tile(order == number, 2)))
        even = share * np.arange(taken.size)
        assert np.abs(taken - even).max() < 2.0
        assert abs(taken[PERIOD] - share * PERIOD) < 1.0


@pytest.mark.parametrize("shares", [(0.5, 0.0, 0.3, 0.2), (1, 3, 7), (10, *[1] * 19)])
def test_no_stretch_of_rows_has_a_burst_of_one_dataset(shares):
    """Equal small datasets came one after another, up to seven rows too many."""
    order = order_of(shares)
    for number, count in enumerate(np.bincount(order, minlength=len(shares))):
        taken = np.append(0, np.cumsum(np.tile(order == number, 2)))
        beyond = taken - count / PERIOD * np.arange(taken.size)
        assert np.ptp(beyond) < 2.0  # of any two ends of a stretch


def test_a_weight_that_no_row_could_be_given_is_refused():
    with pytest.raises(
        ValueError, match=r"2e-05 of the sum.*less than one row of 10,000"
    ):
        order_of([2e-5, 1.0 - 2e-5])


def test_each_dataset_gives_its_own_rows_in_its_own_order(stores, special):
    rows, batch_size, steps = mixed(stores, special), 8, 30
    batches = [rows.batch_of_step(n, batch_size=batch_size) for n in range(steps)]
    order = order_of(SHARES)[: batch_size * steps].reshape(steps, batch_size)
    for number, own in enumerate(rows.sources):
        found = [
            PretrainBatch(*(x[of_row == number] for x in batch))
            for batch, of_row in zip(batches, order, strict=True)
        ]
        found = joined(found)
        count = int((order == number).sum())
        assert count == pytest.approx(SHARES[number] * order.size, abs=1)
        if count:
            assert_same(found, own.batch(0, count))
    assert count > own.size(0).num_rows  # a second epoch


def test_hosts_load_parts_of_the_same_batch(stores, special):
    rows = mixed(stores, special)
    whole = list(train_batches(rows, batch_size=8, first_step=0, num_steps=5))
    later = list(train_batches(rows, batch_size=8, first_step=3, num_steps=5))
    parts = [
        list(
            train_batches(
                rows, batch_size=8, first_step=0, num_steps=5, parts=own, num_parts=4
            )
        )
        for own in ((0, 1), (2,), (3,))
    ]
    for step in range(5):
        assert_same(joined(part[step] for part in parts), whole[step])
    for one, other in zip(whole[3:], later, strict=True):
        assert_same(one, other)


def test_with_buckets_a_batch_is_of_one_dataset(stores, special):
    cfg = dataclasses.replace(CFG, layout="buckets")
    rows = mixed(stores, special, cfg, taken=(2, 0, 0, 0), batch_size=4)
    order, places = order_of(SHARES), [2, 0, 0, 0]
    for step in range(12):
        source = order[step]
        expected = rows.sources[source].batch_of_step(places[source], batch_size=4)
        assert_same(rows.batch_of_step(step, batch_size=4), expected)
        places[source] += 1
    assert set(order[:12]) == {0, 2, 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    corpus = make_corpus(folder)
    prepared(corpus, folder / "wiki")
    prepared(corpus, folder / "books", validation_fraction=0.5)
    return folder


def mixture(folder, **settings) -> DataConfig:
    paths = (folder / "wiki", folder / "books")
    return DataConfig(**{"sequence_length": 16, "mixture": paths} | settings)


def test_a_phase_with_other_weights_goes_on_where_each_dataset_was(folder):
    phases = (
        PhaseConfig(sequence_length=16, batch_size=8, num_steps=5, weights=(0.0, 1.0)),
        PhaseConfig(sequence_length=16, batch_size=8, num_steps=5, weights=(0.9, 0.1)),
        PhaseConfig(sequence_length=24, batch_size=8, num_steps=5),
    )
    cfg = PretrainConfig(
        data=mixture(folder, weights=(0.7, 0.3)),
        batch_size=8,
        num_steps=10,
        next_phases=phases,
    )
    corpus = open_corpus(cfg.data)
    rows = [open_train_rows(corpus, cfg, number) for number in range(4)]
    ends = [x.rows.places_of(n, 0, 8 * 5) for x in rows[1:3] for n in range(2)]
    assert ends == [(56, 56), (24, 64), (56, 92), (64, 68)]
    assert rows[3].rows.places_of(0, 0, 10) == (0, 9)  # rows of another length
    assert [len(x.lines) for x in rows] == [2, 1, 2, 2]
    assert rows[1].lines[0].startswith("books, 100.0% of the rows: ")
    found = documents_of_batch(corpus.datasets, rows[0].rows, 0, batch_size=8)
    assert {key.split(":")[0] for key in found["documents"]} == {"wiki", "books"}


def test_held_out_text_that_another_dataset_trains_on_is_counted(folder, tmp_path):
    datasets = open_corpus(mixture(folder)).datasets
    found = [*describe_leaks(datasets)]
    expected = []
    for one, other in (datasets, datasets[::-1]):
        # No two documents of the corpus are equal, so their keys tell copies.
        leaked = _keys(one, "validation") & _keys(other, "train")
        if leaked:
            expected.append(
                f"note: {len(leaked)} of {len(_keys(one, 'validation'))} held-out "
                f"documents of {one.directory.name} are trained on in "
                f"{other.directory.name}, "
            )
    assert expected
    assert [x[: len(y)] for x, y in zip(found, expected, strict=True)] == expected
    assert not [*describe_leaks(datasets[:1])]
    bare = tmp_path / "bare"
    shutil.copytree(datasets[1].directory, bare)
    shutil.rmtree(bare / "shards")
    for pair in ((datasets[0], open_dataset(bare)), (open_dataset(bare), datasets[0])):
        notes = [*describe_leaks(pair)]
        assert len(notes) == 2
        assert all(f"{bare / 'shards'}" in note for note in notes)
    # What a dataset has dropped is not in its training text.
    without = tmp_path / datasets[0].directory.name
    shutil.copytree(datasets[0].directory, without)
    for path in (without / "shards").glob("*.hashes.npy"):
        dropped = np.arange(len(np.load(path)))
        np.save(path.with_name(path.name.replace("hashes", "drop")), dropped)
    assert not [*describe_leaks((open_dataset(without), datasets[1]))]


def _keys(dataset, split) -> set[str]:
    count = dataset.manifest["splits"][split]["documents"]
    return set(dataset.document_keys(split, [*range(count)]))


def test_without_weights_a_row_of_any_dataset_is_as_probable(folder):
    corpus = open_corpus(mixture(folder))
    tokens = corpus.of_train("tokens")
    assert corpus.shares(()) == pytest.approx([n / sum(tokens) for n in tokens])
    assert corpus.shares((6.0, 2.0)) == (0.75, 0.25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": (1.0,)}, "are 1 weights for 2 datasets of the mixture"),
        ({"weights": (1.0, -1.0)}, "must not be negative"),
        ({"weights": (0.0, 0.0)}, "one must be greater than 0"),
        ({"mixture": (), "weights": (1.0,)}, "would be ignored: there is no mixture"),
        ({"dataset": "wiki"}, "both say what to train on"),
    ],
    ids=str,
)
def test_settings_of_a_mixture_that_cannot_be_meant_are_refused(
    folder, settings, message
):
    with pytest.raises(ValueError, match=message):
        mixture(folder, **settings)


def test_datasets_that_do_not_go_together_are_refused(folder, tmp_path):
    other = make_corpus(tmp_path)
    lines = [record["text"] for record in other[1]]
    cased = train_sentencepiece(lines, vocab_size=44, lowercase=False)
    cased.save(tmp_path / "tokenizer of cased text")
    corpus = (*other[:2], tmp_path / "tokenizer of cased text")
    prepared(corpus, tmp_path / "cased")
    with pytest.raises(ValueError, match="cased was prepared with another tokenizer"):
        open_corpus(mixture(folder, mixture=(folder / "wiki", tmp_path / "cased")))
    with pytest.raises(ValueError, match="two datasets are called 'wiki'"):
        open_corpus(mixture(folder, mixture=(folder / "wiki", folder / "wiki")))


def test_a_run_of_a_mixture_says_what_it_takes_and_is_judged_by_dataset(folder, capsys):
    flags = ("--num-steps", "6", "--data.weights", "3", "1", "--output", "run")
    with contextlib.chdir(folder):
        command = ("pretrain", "bert_base", *SMALL, "--data.mixture", "wiki", "books")
        cli.main([*command, *flags])
    said = capsys.readouterr().out
    assert "6 steps: wiki, 75.0% of the rows: " in said
    assert "6 steps: books, 25.0% of the rows: " in said
    assert "held-out documents of books are trained on in wiki, word for word" in said
    last = read_metrics(folder / "run")[-1]
    for metric in ("mlm_loss", "mlm_accuracy", "nsp_accuracy"):
        each = [last[f"{name}/{metric}"] for name in ("wiki", "books")]
        assert last[metric] == pytest.approx(0.75 * each[0] + 0.25 * each[1])
    assert last["wiki/mlm_loss"] != last["books/mlm_loss"]
    (folder / "run/results.json").unlink()  # a kill came before it was written
    with contextlib.chdir(folder):
        cli.main([*command, *flags])
    assert "word for word" not in capsys.readouterr().out  # the first session said it
    cli.main(["evaluate", str(folder / "run")])
    shown = capsys.readouterr()
    assert shown.err.count("the dataset of its training") == 2
    assert f"books/mlm_loss: {last['books/mlm_loss']:.6g}" in shown.out.splitlines()
    cli.main(
        ["report", "--pretrain", str(folder / "run"), "--output", str(folder / "page")]
    )
    page = (folder / "page" / "report.html").read_text()
    assert page.count("Preparation of the text") == 2
    with contextlib.chdir(folder), pytest.raises(SystemExit):
        cli.main([*command, *flags[:3], "1", "3", *flags[5:]])
    assert "weights" in capsys.readouterr().err
