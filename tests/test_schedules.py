"""Learning rates against plain formulas, at every boundary."""

import dataclasses

import jax
import numpy as np
import pytest
import reference_optimizers as reference

from bert_jax.config import OptimizerConfig, PhaseConfig, PretrainConfig
from bert_jax.train.program import phases_schedule
from bert_jax.train.schedules import join_phases, make_schedule

NUM_STEPS, WARMUP = 1_000, 100
SHAPES = {
    "linear": {},
    "linear to an end": {"end_rate": 1e-4},
    "polynomial": {"schedule": "polynomial", "decay_power": 0.5},
    "polynomial to an end": {
        "schedule": "polynomial",
        "decay_power": 2.0,
        "end_rate": 2e-4,
    },
    "cosine": {"schedule": "cosine"},
    "cosine to an end": {"schedule": "cosine", "end_rate": 1e-4},
    "constant": {"schedule": "constant"},
    "trapezoidal": {"schedule": "trapezoidal"},
    "trapezoidal to an end": {
        "schedule": "trapezoidal",
        "decay_steps": 500,
        "end_rate": 1e-4,
    },
    "trapezoidal, root": {
        "schedule": "trapezoidal",
        "decay_steps": 0.5,
        "decay_shape": "sqrt",
    },
}


def settings(warmup_steps=WARMUP, **fields):
    return OptimizerConfig(learning_rate=3e-3, warmup_steps=warmup_steps, **fields)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("warmup", [WARMUP, 1, 0])
def test_rates_are_the_formulas(shape, warmup):
    cfg = settings(warmup, **SHAPES[shape])
    schedule = make_schedule(cfg, NUM_STEPS)
    steps = [0, 1, warmup - 1, warmup, warmup + 1, 499, 500, 501]
    steps += [
        799,
        800,
        801,
        900,
        NUM_STEPS - 2,
        NUM_STEPS - 1,
        NUM_STEPS,
        NUM_STEPS + 1,
        9 * NUM_STEPS,
    ]
    for step in [s for s in steps if s >= 0]:
        expected = reference.plain_rate(cfg, NUM_STEPS, step)
        # Float32 has 6e-8, and its powers and sines a few times that.
        np.testing.assert_allclose(schedule(step), expected, rtol=1e-6, atol=1e-10)


def test_the_corners_in_numbers():
    linear = make_schedule(settings(), NUM_STEPS)
    # BERT's: the decay is counted from step 0, so a tenth is lost where they meet.
    np.testing.assert_allclose(
        [linear(s) for s in (0, 50, 99, 100, 550, 999, 1000, 2000)],
        [0.0, 1.5e-3, 2.97e-3, 2.7e-3, 1.35e-3, 3e-6, 0.0, 0.0],
        rtol=1e-4,
    )
    cosine = make_schedule(settings(schedule="cosine", end_rate=1e-3), NUM_STEPS)
    np.testing.assert_allclose(
        [cosine(s) for s in (100, 500, 1000, 1001)],
        [1e-3 + 1e-3 * 1.9510565, 2e-3, 1e-3, 1e-3],
        rtol=1e-6,
    )
    root = settings(schedule="polynomial", decay_power=0.5, warmup_steps=0)
    np.testing.assert_allclose(make_schedule(root, NUM_STEPS)(750), 1.5e-3, rtol=1e-6)


@pytest.mark.parametrize(("num_steps", "decay_steps"), [(4, None), (50, 0.01)])
def test_a_share_of_less_than_an_update_does_not_set_the_rate_to_0(
    num_steps, decay_steps
):
    cfg = settings(0, schedule="trapezoidal", decay_steps=decay_steps)
    schedule = make_schedule(cfg, num_steps)
    assert [float(schedule(n)) for n in (0, num_steps - 1)] == [np.float32(3e-3)] * 2
    assert schedule(num_steps) == 0


def test_a_warmup_without_end_is_refused_in_fine_tuning_too():
    with pytest.raises(ValueError, match=r"warmup_steps=100 is not less than the 63"):
        make_schedule(settings(), 63)


def test_a_trapezoid_is_flat_between_its_slopes():
    schedule = make_schedule(settings(schedule="trapezoidal"), NUM_STEPS)
    assert {float(schedule(s)) for s in range(WARMUP, 801)} == {float(np.float32(3e-3))}
    assert float(schedule(801)) < np.float32(3e-3)
    with pytest.raises(
        ValueError, match=r"decay_steps=950.0 .* overlap in 1,000 steps"
    ):
        make_schedule(settings(schedule="trapezoidal", decay_steps=950.0), NUM_STEPS)
    with pytest.raises(
        ValueError, match="decay_steps=10 would be ignored: it needs schedule='trap"
    ):
        settings(decay_steps=10)


def test_phases_follow_each_other_and_start_anew():
    phases = [
        (settings(), 1_000),
        (settings(10, schedule="cosine"), 200),
        (settings(0, schedule="constant"), 50),
    ]
    schedule, ends = join_phases(phases), (1_000, 1_200, 1_250)
    for step in (0, 99, 100, 999, 1_000, 1_001, 1_009, 1_010, 1_199, 1_200, 1_249):
        number = next(n for n, end in enumerate(ends) if step < end)
        cfg, num_steps = phases[number]
        start = ends[number] - num_steps
        expected = reference.plain_rate(cfg, num_steps, step - start)
        np.testing.assert_allclose(schedule(step), expected, rtol=1e-6, atol=1e-10)
    assert schedule(1_000) == 0.0 < schedule(1_001), "each phase warms up"


def test_phases_without_a_rate_of_their_own_go_on_with_the_schedule():
    """Small batches first: one warm-up and one decay; then a phase that begins anew."""
    trapezoid = settings(60, schedule="trapezoidal", decay_steps=0.2)
    larger = PhaseConfig(num_steps=100, batch_size=512, learning_rate=None)
    anew = PhaseConfig(num_steps=80, learning_rate=2e-4, warmup_steps=0.25)
    last = PhaseConfig(num_steps=20, learning_rate=None)
    cfg = PretrainConfig(
        optimizer=trapezoid, num_steps=50, next_phases=(larger, larger, anew, last)
    )
    cfg.check()
    assert cfg.scheduled_steps == (250, 0, 0, 100, 0)
    assert [phase.optimizer.learning_rate for phase in cfg.phases[3:]] == [2e-4] * 2
    second = dataclasses.replace(trapezoid, learning_rate=2e-4, warmup_steps=0.25)
    expected = join_phases([(trapezoid, 250), (second, 100)])
    found = phases_schedule(cfg)
    assert [found(step) for step in range(350)] == [
        expected(step) for step in range(350)
    ]
    # The warm-up is longer than the first phase, and the decay begins in the third.
    assert found(50) < found(60) == found(199) == trapezoid.learning_rate > found(210)


def test_one_phase_is_its_own_schedule():
    joined, alone = join_phases([(settings(9), 90)]), make_schedule(settings(9), 90)
    assert all(joined(step) == alone(step) for step in range(0, 120, 7))


def test_the_log_reads_the_rate_that_the_optimizer_uses():
    """A Python integer outside jit and the state's counter inside: the same bits."""
    schedule = join_phases([(settings(), 300), (settings(5, schedule="cosine"), 40)])
    traced = jax.jit(schedule)
    for step in (0, 3, 99, 100, 299, 300, 304, 305, 339, 340):
        # The same operations, which a compiler may still fuse: one unit in the last
        # place.
        np.testing.assert_array_max_ulp(schedule(step), traced(np.int32(step)), 1)
        assert schedule(step).dtype == traced(step).dtype == np.float32
