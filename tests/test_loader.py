"""Batches are a function of (seed, step): of hosts, threads and restarts they are not.

Tokens are numbered, so a pair can be read back from its row and looked up in the plan.
"""

import collections
import itertools
import time

import numpy as np
import pytest
from store_rows import assert_same, joined, rows_of_store

from bert_jax.batch import PretrainBatch
from bert_jax.config import DataConfig
from bert_jax.data.batches import rows as rows_module
from bert_jax.data.batches.epoch_plans import EpochPlans
from bert_jax.data.batches.loader import InputClock, evaluation_batches, train_batches
from bert_jax.data.batches.pairs import make_pairs
from bert_jax.data.batches.rows import PretrainRows

LENGTH = 32
BATCH = 8


@pytest.fixture(scope="module")
def store(make_store):
    rng = np.random.default_rng(1)
    return make_store([rng.integers(1, 15, rng.integers(1, 9)) for _ in range(40)])


@pytest.fixture(params=["packed", "padded", "buckets"])
def make_rows(request, store, special):
    """make_rows(cfg changes) -> PretrainRows with nothing planned yet."""

    def make(**changes) -> PretrainRows:
        cfg = DataConfig(
            **{"sequence_length": LENGTH, "layout": request.param} | changes
        )
        return rows_of_store(store, cfg, special, seed=3, batch_size=BATCH)

    return make


def steps_to_third_epoch(rows: PretrainRows) -> int:
    """So many that both borders lie inside, and inside batches but for buckets."""
    first, second = (rows.size(n) for n in (0, 1))
    if rows.cfg.layout == "buckets":
        return first.num_batches + second.num_batches + 2
    assert first.num_rows % BATCH
    return (first.num_rows + second.num_rows) // BATCH + 2


def pairs_in(batch: PretrainBatch) -> collections.Counter:
    """Token ids and segments of every pair, [CLS] and [SEP] included."""
    found = collections.Counter()
    for row, sequence in enumerate(batch.sequence_ids):
        for number in range(1, int(sequence.max()) + 1):
            mine = sequence == number
            ids = batch.input_ids[row, mine].tolist()
            found[
                tuple(zip(ids, batch.segment_ids[row, mine].tolist(), strict=True))
            ] += 1
    return found


def test_a_host_loads_any_parts_that_its_devices_hold(make_rows):
    end = steps_to_third_epoch(make_rows())
    held = (1, 2, 5, 7)  # as where the mesh does not follow the order of hosts
    options = {"batch_size": BATCH, "first_step": 0, "num_steps": end}
    whole = train_batches(make_rows(), **options)
    some = train_batches(make_rows(), **options, parts=held, num_parts=8)
    for step, (one, mine) in enumerate(zip(whole, some, strict=True)):
        picked = PretrainBatch(
            *(np.concatenate([np.split(x, 8)[n] for n in held]) for x in one)
        )
        assert_same(mine, picked, step)


@pytest.mark.parametrize("num_hosts", [2, 4, 8])
def test_hosts_share_the_batch_of_one_host(make_rows, num_hosts):
    end = steps_to_third_epoch(make_rows())
    whole = train_batches(make_rows(), batch_size=BATCH, first_step=0, num_steps=end)
    shares = [
        train_batches(
            make_rows(),
            batch_size=BATCH,
            first_step=0,
            num_steps=end,
            parts=(host,),
            num_parts=num_hosts,
        )
        for host in range(num_hosts)
    ]
    shares_buckets = make_rows().cfg.layout == "buckets"
    count = 0
    for step, (one, *parts) in enumerate(zip(whole, *shares, strict=True)):
        assert_same(joined(parts), one, step)
        rows, length = one.input_ids.shape
        assert rows == BATCH * (LENGTH // length)
        assert length == LENGTH or shares_buckets
        count += 1
    assert count == end


def test_a_resumed_run_sees_the_same_batches(make_rows):
    end = steps_to_third_epoch(make_rows())
    expected = list(
        train_batches(make_rows(), batch_size=BATCH, first_step=0, num_steps=end)
    )
    assert len(expected) == end
    for first in range(end + 1):
        resumed = list(
            train_batches(
                make_rows(), batch_size=BATCH, first_step=first, num_steps=end
            )
        )
        assert len(resumed) == end - first
        for actual, want in zip(resumed, expected[first:], strict=True):
            assert_same(actual, want, first)


def test_a_resume_at_step_a_million_does_the_work_of_one_at_step_a_hundred(
    make_rows, monkeypatch
):
    """Counted until the first batch; the sizes of earlier epochs were kept on disk."""
    size = make_rows().size(0)
    work = collections.Counter()
    plan, assemble = rows_module.plan_epoch, PretrainRows.assemble

    def counted(name, function):
        def call(*args, **more):
            work[name] += 1
            return function(*args, **more)

        return call

    def kept(plans, number):
        work["sizes read"] += 1
        return size

    monkeypatch.setattr(rows_module, "plan_epoch", counted("planned", plan))
    monkeypatch.setattr(PretrainRows, "assemble", counted("assembled", assemble))
    monkeypatch.setattr(EpochPlans, "size", kept)
    found = []
    steps_an_epoch = size.num_batches or size.num_rows // BATCH
    for step in (100, 1_000_000 // steps_an_epoch * steps_an_epoch):
        work.clear()
        batches = train_batches(
            make_rows(), batch_size=BATCH, first_step=step, num_steps=step + 1
        )
        assert len(list(batches)) == 1
        assert work.pop("sizes read") <= step // steps_an_epoch + 2
        found.append(dict(work))
    for counts in found:
        assert max(counts.values()) <= 2  # a batch may lie in two epochs


def test_steps_can_begin_at_any_row(make_rows):
    """Where the phase before stopped; buckets have no rows by number."""
    rows = make_rows()
    options = {"batch_size": BATCH, "first_step": 1, "num_steps": 4}
    plain = list(train_batches(rows, **options))
    for number, batch in enumerate(train_batches(rows, **options, first_row=3)):
        if rows.cfg.layout == "buckets":
            assert_same(batch, plain[number])
        else:
            assert_same(batch, rows.batch(3 + (1 + number) * BATCH, BATCH))


def test_threads_do_not_matter(make_rows):
    end = steps_to_third_epoch(make_rows())
    runs = [
        train_batches(
            make_rows(num_threads=n), batch_size=BATCH, first_step=0, num_steps=end
        )
        for n in (1, 2, 7)
    ]
    for batches in zip(*runs, strict=True):
        assert_same(batches[1], batches[0])
        assert_same(batches[2], batches[0])


def batches_of_epoch(rows: PretrainRows, number: int) -> list[PretrainBatch]:
    if rows.cfg.layout != "buckets":
        first = sum(rows.size(n).num_rows for n in range(number))
        return [rows.batch(first, rows.size(number).num_rows)]
    first = sum(rows.size(n).num_batches for n in range(number))
    steps = range(first, first + rows.size(number).num_batches)
    return [rows.batch_of_step(step, batch_size=BATCH) for step in steps]


def test_every_epoch_holds_each_of_its_pairs_once(make_rows, store, special):
    rows = make_rows()
    seen = []
    for number in range(4):
        batches = batches_of_epoch(rows, number)
        seen.append(sum(map(pairs_in, batches), collections.Counter()))
        plan = make_pairs(store, rows.cfg, seed=3, epoch=number)
        expected = collections.Counter()
        for a, a_size, b, b_size in zip(
            plan.a_start, plan.a_length, plan.b_start, plan.b_length, strict=True
        ):
            one = [special.cls, *store.tokens[a : a + a_size].tolist(), special.sep]
            two = [*store.tokens[b : b + b_size].tolist(), special.sep]
            expected[(*((x, 0) for x in one), *((x, 1) for x in two))] += 1
        assert seen[-1] == expected
    assert all(one != other for one, other in itertools.combinations(seen, 2))


def test_batches_depend_on_the_seed(make_rows, store, special):
    rows = make_rows()
    other = rows_of_store(store, rows.cfg, special, seed=4, batch_size=BATCH)
    # All pairs of an epoch, so that another order alone does not pass for a change.
    one, two = (
        sum(map(pairs_in, batches_of_epoch(x, 0)), collections.Counter())
        for x in (rows, other)
    )
    assert one != two


def test_hosts_must_divide_the_batch(make_rows):
    with pytest.raises(ValueError, match=r"batch_size=8 has no 3 .* multiple of 3"):
        train_batches(
            make_rows(),
            batch_size=8,
            first_step=0,
            num_steps=1,
            parts=(0,),
            num_parts=3,
        )


def test_buckets_know_the_size_of_their_batches(store, special):
    cfg = DataConfig(sequence_length=LENGTH, layout="buckets")
    with pytest.raises(ValueError, match="PretrainRows needs batch_size"):
        rows_of_store(store, cfg, special, seed=3)
    rows = rows_of_store(store, cfg, special, seed=3, batch_size=4)
    with pytest.raises(ValueError, match=r"batch_size=8, but .* batches of 4"):
        train_batches(rows, batch_size=8, first_step=0, num_steps=1)
    with pytest.raises(ValueError, match="use layout='padded'"):
        rows.batch(0, 1)


@pytest.fixture(params=["packed", "padded"])
def evaluation_rows(request, store, special):
    def make() -> PretrainRows:
        cfg = DataConfig(sequence_length=LENGTH, layout=request.param)
        return rows_of_store(store, cfg, special, seed=3)

    return make


def test_evaluation_sees_every_row_once_and_fills_up(evaluation_rows):
    rows = evaluation_rows()
    count = rows.epoch(0).num_rows
    assert count % BATCH, "no batch to fill up"
    batches = list(evaluation_batches(rows, batch_size=BATCH, max_batches=1_000))
    assert len(batches) == -(-count // BATCH)
    whole = joined(batches)
    expected = rows.batch(0, count)
    assert_same(PretrainBatch(*(x[:count] for x in whole)), expected)
    for array in whole:
        assert not array[count:].any()
    assert whole.input_ids.shape == (len(batches) * BATCH, LENGTH)
    again = evaluation_batches(evaluation_rows(), batch_size=BATCH, max_batches=1_000)
    for one, other in zip(batches, again, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("num_hosts", [2, 8])
def test_hosts_share_the_batches_of_evaluation(evaluation_rows, num_hosts):
    options = {"batch_size": BATCH, "max_batches": 1_000}
    whole = evaluation_batches(evaluation_rows(), **options)
    shares = [
        evaluation_batches(
            evaluation_rows(), parts=(n,), num_parts=num_hosts, **options
        )
        for n in range(num_hosts)
    ]
    for one, *parts in zip(whole, *shares, strict=True):
        assert_same(joined(parts), one)


def test_evaluation_stops_at_its_limit(evaluation_rows):
    rows = evaluation_rows()
    batches = list(evaluation_batches(rows, batch_size=BATCH, max_batches=2))
    assert len(batches) == 2
    assert all((batch.sequence_ids[:, 0] == 1).all() for batch in batches)


def test_waiting_is_counted_and_the_source_closed():
    closed = []

    def slow():
        try:
            for number in range(3):
                time.sleep(0.05)
                yield number
        finally:
            closed.append(True)

    clock = InputClock(slow())
    assert [next(clock), next(clock)] == [0, 1]
    time.sleep(0.05)  # the consumer's own time
    # Sleeping takes at least as long as asked, and hardly five times as long.
    assert 0.1 <= clock.take() < 0.5
    assert clock.take() == 0.0
    clock.close()
    assert closed
    assert list(clock) == []
