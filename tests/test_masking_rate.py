"""A masking rate that changes over the run, and evaluations that do not follow it."""

import dataclasses
from fractions import Fraction

import jax
import numpy as np
import pytest
from masked_rows import VOCAB, assert_consistent, expect, hidden_tokens, rows_of

from bert_jax.config import (
    DataConfig,
    MaskingConfig,
    MeshConfig,
    OptimizerConfig,
    PhaseConfig,
    PretrainConfig,
)
from bert_jax.model.masking import mask_tokens
from bert_jax.model.masking_rate import UNITS, rate_at, slots_by_length
from bert_jax.train.held_out import PretrainEvaluator
from bert_jax.train.mesh import make_mesh
from bert_jax.train.placement import to_devices
from bert_jax.train.pretrain import show_pretraining
from bert_jax.train.program import pretrain_program

FALLING = MaskingConfig(rate=0.3, end_rate=0.15)
LENGTH = 64


def exact_rate(cfg: MaskingConfig, step: int, num_steps: int) -> Fraction:
    """The straight line in whole numbers, halves rounded up."""
    first, end = (round(cfg.rate * UNITS), round(cfg.end_rate * UNITS))
    held = max(1, -(-num_steps // UNITS))
    last = (num_steps - 1) // held
    line = first + Fraction(end - first) * Fraction(step // held, max(last, 1))
    return Fraction((line + Fraction(1, 2)).__floor__(), UNITS)


def exact_count(rate: Fraction, tokens: int) -> int:
    return max(1, (rate * tokens + Fraction(1, 2)).__floor__())


def words(num_rows: int, sizes, length: int = LENGTH):
    """[CLS] words [SEP] padding; `sizes` are the numbers of real tokens."""
    ids = np.random.default_rng(0).integers(5, VOCAB, (num_rows, length))
    sizes = np.broadcast_to(sizes, num_rows)
    ids[:, 0] = 2
    ids[np.arange(num_rows), sizes - 1] = 3
    return rows_of(np.where(np.arange(length) < sizes[:, None], ids, 0))


@pytest.mark.parametrize("num_steps", [1, 2, 7, 1_000, 32_769, 900_000, 10_000_000])
@pytest.mark.parametrize(("rate", "end"), [(0.3, 0.15), (0.05, 0.999), (0.4, 1e-4)])
def test_the_rate_goes_on_a_straight_line(rate, end, num_steps):
    cfg = MaskingConfig(rate=rate, end_rate=end)
    every = np.unique(np.linspace(0, num_steps - 1, 97).astype(int))
    found = np.array([rate_at(cfg, int(step), num_steps) for step in every]) / UNITS
    expected = [float(exact_rate(cfg, int(step), num_steps)) for step in every]
    np.testing.assert_array_equal(found, expected)
    line = rate + (end - rate) * every / max(num_steps - 1, 1)
    # One unit of rounding, and one for the updates that a rate is held in a long run.
    np.testing.assert_allclose(found, line, rtol=0, atol=2 / UNITS)
    assert abs(found[0] - rate) <= 0.5 / UNITS
    if num_steps > 1:
        assert abs(found[-1] - end) <= 0.5 / UNITS
    # A measurement can make more updates than the run that is planned from it.
    assert rate_at(cfg, num_steps + 5, num_steps) == found[-1] * UNITS


def test_counts_fit_their_integers_in_the_longest_rows():
    cfg = MaskingConfig(rate=0.9999, end_rate=0.1)
    found = np.asarray(slots_by_length(cfg, 2**16 - 1, rate_at(cfg, 0, 10)))
    tokens = np.arange(2**16)
    units = int(rate_at(cfg, 0, 10))
    np.testing.assert_array_equal(
        found, np.minimum(np.maximum((tokens * units + 2**14) // 2**15, 1), found[-1])
    )


@pytest.mark.parametrize("cfg", [FALLING, MaskingConfig(rate=0.1, end_rate=0.4)])
def test_rows_hide_what_the_rate_of_their_update_says(vocabulary, cfg):
    """One trace for all updates; the number of slots is that of the highest rate."""
    sizes = np.arange(3, LENGTH + 1)
    batch, num_steps = words(sizes.size, sizes), 11
    traced = jax.jit(
        lambda step: mask_tokens(
            cfg, batch, vocabulary, jax.random.key(0), rate_at(cfg, step, num_steps)
        )
    )
    slots = round(max(cfg.rate, cfg.end_rate) * LENGTH)
    for step in range(num_steps):
        masked = jax.tree.map(np.asarray, traced(np.int32(step)))
        assert masked.positions.shape == (sizes.size, slots)
        rate = exact_rate(cfg, step, num_steps)
        counts = [
            min(slots, exact_count(rate, int(n)), max(int(n) - 2, 0)) for n in sizes
        ]
        np.testing.assert_array_equal(masked.weights.sum(1), counts)
        assert_consistent(batch, masked, vocabulary)
    assert traced._cache_size() == 1


@pytest.mark.parametrize("unit", ["word", "span"])
def test_words_and_spans_follow_the_rate(vocabulary, unit):
    cfg, batch = dataclasses.replace(FALLING, unit=unit), words(256, LENGTH)
    traced = jax.jit(
        lambda step: mask_tokens(
            cfg, batch, vocabulary, jax.random.key(0), rate_at(cfg, step, 9)
        )
    )
    for step in (0, 4, 8):
        masked = jax.tree.map(np.asarray, traced(np.int32(step)))
        assert_consistent(batch, masked, vocabulary)
        wanted = exact_count(exact_rate(cfg, step, 9), LENGTH)
        counts = masked.weights.sum(1)
        assert counts.max() == wanted
        assert counts.mean() > wanted - 0.5  # some rows have no word that still fits


def test_tokens_are_drawn_evenly_at_a_rate_in_between(vocabulary):
    batch = words(4096, LENGTH)
    rate = rate_at(FALLING, 5, 11)
    masked = jax.jit(mask_tokens, static_argnums=(0, 2))(
        FALLING, batch, vocabulary, jax.random.key(1), rate
    )
    chosen = hidden_tokens(jax.tree.map(np.asarray, masked))
    count = exact_count(exact_rate(FALLING, 5, 11), LENGTH)
    assert count == 14  # 22.5 % of 64
    for hits in chosen[:, 1:-1].sum(0):
        expect(hits, 4096, count / (LENGTH - 2))
    assert not chosen[:, [0, -1]].any()


def test_a_rate_that_ends_where_it_began_is_a_constant_one(mask):
    """Bit for bit: halves of a token are rounded as they always were."""
    constant = MaskingConfig(rate=0.3)
    same = dataclasses.replace(constant, end_rate=0.3)
    assert rate_at(same, 3, 10) is None
    batch = words(60, np.arange(5, LENGTH + 1))
    jax.tree.map(
        np.testing.assert_array_equal, mask(batch, 0, constant), mask(batch, 0, same)
    )


def test_evaluation_has_a_rate_of_its_own():
    assert FALLING.for_evaluation == MaskingConfig().for_evaluation == MaskingConfig()
    assert MaskingConfig().is_judged_alike
    for other in (FALLING, MaskingConfig(rate=0.2), MaskingConfig(eval_rate=0.2)):
        assert not other.is_judged_alike


def config(model, **settings) -> PretrainConfig:
    return PretrainConfig(
        model=dataclasses.replace(model, num_layers=1, max_positions=LENGTH),
        data=DataConfig(sequence_length=LENGTH, layout="padded"),
        optimizer=OptimizerConfig(warmup_steps=1),
        batch_size=8,
        **settings,
    )


@pytest.mark.slow(ci=False)  # compiles a whole step
def test_a_step_masks_at_the_rate_of_its_number_in_the_whole_run(tiny, vocabulary):
    """And only then: the same program, begun at any update, hides as many tokens."""
    later = PhaseConfig(sequence_length=LENGTH, batch_size=8, num_steps=4)
    cfg = config(
        tiny,
        masking=MaskingConfig(rate=0.5, end_rate=0.1),
        num_steps=5,
        next_phases=(later,),
    )
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    program = pretrain_program(cfg.phases[1], mesh, vocabulary, cfg)
    batch = to_devices(mesh, words(8, LENGTH))
    state = dataclasses.replace(program.make_state(), step=jax.numpy.int32(5))
    shares = []
    for _ in range(4):
        state, metrics = program.step(state, batch)
        shares.append(float(metrics["masked_share"].value()))
        assert metrics["work"].masked_slots == metrics["masked_share"].sum
    counts = [exact_count(exact_rate(cfg.masking, s, 9), LENGTH) for s in range(5, 9)]
    assert counts == [16, 13, 10, 6]
    np.testing.assert_allclose(shares, np.array(counts) / LENGTH, rtol=1e-6)


class HeldOut:
    """Rows of a validation split, as the evaluator reads them."""

    cfg = DataConfig(sequence_length=LENGTH, layout="padded")

    def epoch(self, _):
        return type("Epoch", (), {"num_rows": 8})

    def assemble(self, *_, **__):
        return words(8, LENGTH)


@pytest.mark.slow(ci=False)  # compiles two evaluations
def test_runs_of_any_rate_are_judged_at_one(tiny, vocabulary):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    plain = config(tiny, num_steps=2)
    params = pretrain_program(plain, mesh, vocabulary).make_state().params

    def judge(masking: MaskingConfig) -> dict[str, float]:
        cfg = dataclasses.replace(plain, masking=masking)
        return PretrainEvaluator(cfg, {"text": HeldOut()}, vocabulary, mesh)(params)

    expected, found = judge(MaskingConfig()), judge(FALLING)
    assert found.pop("masked_share") == pytest.approx(10 / 64)  # 15 % of 64
    assert found == expected
    assert "masked_share" not in expected


def test_a_line_says_how_much_was_masked_where_that_differs():
    line = {"mlm_loss": 2.5, "mlm_accuracy": 0.4}
    assert show_pretraining("none", line) == "MLM loss 2.500 accuracy 40.0%"
    line["masked_share"] = 0.2249
    assert show_pretraining("none", line) == (
        "MLM loss 2.500 accuracy 40.0% at 22.5% masked"
    )
