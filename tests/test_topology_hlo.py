"""Compiled programs as text: instructions, and how often they are executed."""

import jax
import jax.numpy as jnp
import pytest

from bert_jax.topology.hlo import parse_hlo
from bert_jax.topology.instructions import arrays_of

LOOP = """HloModule m

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[]{:T(128)}, f32[4]{0:T(128)S(1)}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[4] get-tuple-element(%p), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %t = (s32[], f32[4]) tuple(%next, %x)
}

%cond (q: (s32[], f32[4])) -> pred[] {
  %q = (s32[], f32[4]) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %limit = s32[] constant(12)
  ROOT %less = pred[] compare(%j, %limit), direction=LT
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x.1 = f32[4]{0} parameter(0)
  %start = s32[] constant(2)
  %init = (s32[], /*index=1*/f32[4]) tuple(%start, %x.1)
  %loop = (s32[], f32[4]) while(%init), condition=%cond, body=%body
  ROOT %out = f32[4] get-tuple-element(%loop), index=1
}
"""


def test_a_loop_counts_from_its_start_to_its_limit():
    module = parse_hlo(LOOP)
    assert module.times["body"] == 10
    assert module.times["main"] == 1
    # What a reduction does with two numbers is no computation of its own.
    assert module.times["add"] == 0
    assert module.unknown_loops == ()


@pytest.mark.parametrize(
    ("written", "rounds"),
    [
        ("%one = s32[] constant(4)\n  %next = s32[] add(%i, %one)", 3),
        # Unrolled: two rounds in one.
        (
            "%one = s32[] constant(1)\n  %half = s32[] add(%i, %one)\n"
            "  %next = s32[] add(%half, %one)",
            5,
        ),
    ],
)
def test_a_loop_may_step_by_more_than_one(written, rounds):
    step = "%one = s32[] constant(1)\n  %next = s32[] add(%i, %one)"
    assert step in LOOP
    assert parse_hlo(LOOP.replace(step, written)).times["body"] == rounds


def test_a_counter_that_does_not_add_a_constant_is_not_known():
    module = parse_hlo(LOOP.replace("add(%i, %one)", "add(%i, %i)"))
    assert module.unknown_loops == ("loop",)


def test_a_count_that_is_stated_is_taken():
    stated = 'body=%body, backend_config={"known_trip_count":{"n":"7"}}'
    module = parse_hlo(LOOP.replace("body=%body", stated))
    assert module.times["body"] == 7


def test_a_loop_without_a_known_count_is_named():
    module = parse_hlo(
        LOOP.replace("%start = s32[] constant(2)", "%start = s32[] rng()")
    )
    assert module.times["body"] == 1
    assert module.unknown_loops == ("loop",)


def test_layouts_tell_what_lies_on_the_chip():
    far, near, flag = arrays_of(
        "(bf16[2,3]{1,0:T(8,128)(2,1)}, /*index=1*/f32[5]{0:T(128)S(1)}, pred[]{:T(512)})"
    )
    assert (far.dtype, far.dims, far.num_bytes, far.on_chip) == (
        "bf16",
        (2, 3),
        12,
        False,
    )
    assert (near.num_bytes, near.on_chip) == (20, True)
    assert (flag.dims, flag.num_bytes) == ((), 1)


@pytest.mark.parametrize(
    ("written", "num_bytes"),
    [
        ("f32[3]", 12),
        ("f8e4m3fn[5]", 5),
        ("s4[3]", 2),
        ("pred[7]", 7),
        ("c64[2]", 16),
        ("token[]", 0),
    ],
)
def test_an_array_takes_the_bytes_of_its_type(written, num_bytes):
    (array,) = arrays_of(written)
    assert array.num_bytes == num_bytes


def test_text_that_is_no_program_is_an_error():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse_hlo("nothing")


def test_nested_scans_multiply_on_a_real_compiler():
    def inner(x, _):
        return jnp.sin(x @ x), None

    def outer(x, _):
        return jax.lax.scan(inner, x, None, length=3)[0], None

    def function(x):
        return jax.lax.scan(outer, x, None, length=5)[0]

    text = jax.jit(function).lower(jnp.ones((16, 16))).compile().as_text()
    module = parse_hlo(text)
    dots = sum(
        times
        for name, times in module.executed()
        for instruction in module.computations[name]
        if instruction.opcode == "dot"
    )
    assert dots == 15
