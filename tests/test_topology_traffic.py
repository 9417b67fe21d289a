"""FLOPs and memory traffic, compared with XLA's own count and with counts by hand."""

import json

import jax
import jax.numpy as jnp
import pytest

from bert_jax.topology.arithmetic import flops_of
from bert_jax.topology.hlo import parse_hlo
from bert_jax.topology.traffic import hbm_bytes_of


def entry(*lines: str) -> str:
    return "\n".join(
        ("ENTRY %main () -> f32[] {", *(f"  {line}" for line in lines), "}")
    )


def compiled(function, *args):
    return jax.jit(function).lower(*args).compile()


def test_products_agree_with_the_compilers_own_count():
    def function(a, b):
        return jnp.einsum("bij,bjk->bik", a, b) + 1.0

    program = compiled(function, jnp.ones((3, 16, 32)), jnp.ones((3, 32, 64)))
    flops, silent = flops_of(parse_hlo(program.as_text()))
    assert flops == 2 * 3 * 16 * 32 * 64
    assert silent == ()
    # XLA counts the additions too.
    assert program.cost_analysis()["flops"] == flops + 3 * 16 * 64


def test_rounds_of_a_scan_are_counted_where_the_compiler_counts_one():
    def function(x):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=7)[0]

    program = compiled(function, jnp.ones((16, 16)))
    flops, _ = flops_of(parse_hlo(program.as_text()))
    assert flops == 7 * 2 * 16**3
    assert program.cost_analysis()["flops"] < flops


def test_branches_of_a_switch_count_by_their_shares():
    """As layers of two kinds in one loop, whichever order the compiler gives the branches."""

    def function(kinds, x, y):
        def layer(carry, kind):
            branches = [lambda x, y: (x @ x, y), lambda x, y: (x, y @ y)]
            return jax.lax.switch(kind, branches, *carry), None

        return jax.lax.scan(layer, (x, y), kinds)[0]

    kinds = jnp.asarray([0, 1, 1, 0, 1, 1, 0, 1])
    program = compiled(function, kinds, jnp.ones((16, 16)), jnp.ones((32, 32)))
    text = program.as_text()
    few, many = 2 * 16**3, 2 * 32**3
    assert flops_of(parse_hlo(text, [3 / 8, 5 / 8]))[0] == 3 * few + 5 * many
    assert flops_of(parse_hlo(text))[0] == 8 * (few + many)


@pytest.mark.parametrize(
    ("image", "kernel", "result", "rest", "flops"),
    [
        # A plain product, as the TPU compiler writes it: [8, 16] by [16, 4].
        ("8,16", "16,4", "8,4", "dim_labels=bf_io->bf", 2 * 8 * 16 * 4),
        # Five places from seven, three wide.
        (
            *("1,7,2", "3,2,4", "1,5,4"),
            "window={size=3}, dim_labels=b0f_0io->b0f",
            2 * 5 * 3 * 2 * 4,
        ),
        # The same with a margin of zeros, which are no products.
        (
            *("1,7,2", "3,2,4", "1,7,4"),
            "window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f",
            2 * (5 * 3 + 2 * 2) * 2 * 4,
        ),
        # Three products [5, 6] by [6, 7], a batch as one dilated dimension: of the nine
        # pairs of a place and a part of the kernel, three meet.
        (
            *("3,5,6", "3,6,7", "3,5,7"),
            "window={size=3 stride=2 lhs_dilate=3}, dim_labels=0bf_0io->0bf",
            2 * 3 * 5 * 6 * 7,
        ),
    ],
)
def test_convolutions_count_real_products_only(image, kernel, result, rest, flops):
    text = entry(
        f"%a = bf16[{image}] parameter(0)",
        f"%b = bf16[{kernel}] parameter(1)",
        f"ROOT %c = bf16[{result}] convolution(%a, %b), {rest}",
    )
    assert flops_of(parse_hlo(text))[0] == flops


def test_a_kernel_counts_as_it_states_or_is_named():
    cost = json.dumps({"flops": 1000, "transcendentals": 5, "bytes_accessed": 64})
    text = entry(
        "%a = f32[8] parameter(0)",
        '%k = f32[8] custom-call(%a), custom_call_target="tpu_custom_call", '
        f'backend_config={{"custom_call_config":{{"cost_estimate":{cost}}}}}',
        'ROOT %s = f32[8] custom-call(%k), custom_call_target="tpu_custom_call", '
        'metadata={op_name="jit(step)/silent_kernel"}',
    )
    module = parse_hlo(text)
    assert flops_of(module) == (1000.0, ("silent_kernel",))
    # The first states 64 bytes, the second reads and writes 32.
    assert hbm_bytes_of(module) == 64 + 64


def test_traffic_is_what_instructions_read_and_write():
    text = entry(
        "%a = f32[100] parameter(0)",
        "%near = f32[100]{0:T(128)S(1)} copy(%a)",  # reads 400
        "%b = f32[100] negate(%near)",  # writes 400
        "%i = s32[] constant(0)",
        "%part = f32[10] dynamic-slice(%b, %i), dynamic_slice_sizes={10}",  # 40 + 40
        "ROOT %all = f32[100] dynamic-update-slice(%b, %part, %i)",  # 40 + 40
    )
    assert hbm_bytes_of(parse_hlo(text)) == 400 + 400 + 80 + 80


def test_a_slice_that_is_fetched_ahead_is_all_that_is_read():
    """The compiler for TPUs fetches large arrays in several slices."""
    text = entry(
        "%a = f32[100,8] parameter(0)",
        "%s = ((f32[100,8]), f32[25,8]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%a), "
        "slice={[0:25], [0:8]}",
        "%near = f32[25,8]{1,0:T(8,128)S(1)} slice-done(%s)",
        "ROOT %b = f32[25,8] negate(%near)",
    )
    assert hbm_bytes_of(parse_hlo(text)) == 2 * 25 * 8 * 4


def test_a_fusion_reads_the_parts_it_looks_at():
    text = """
%deeper (r: f32[12,50], j: s32[]) -> f32[1,50] {
  %r = f32[12,50] parameter(0)
  %j = s32[] parameter(1)
  ROOT %cut = f32[1,50] dynamic-slice(%r, %j, %j), dynamic_slice_sizes={1,50}
}

%fused (p: f32[12,50], q: f32[12,50], i: s32[]) -> f32[12,50] {
  %p = f32[12,50] parameter(0)
  %q = f32[12,50] parameter(1)
  %i = s32[] parameter(2)
  %row = f32[1,50] fusion(%p, %i), kind=kLoop, calls=%deeper
  %same = f32[1,50] negate(%row)
  ROOT %put = f32[12,50] dynamic-update-slice(%q, %same, %i, %i)
}

ENTRY %main () -> f32[12,50] {
  %a = f32[12,50] parameter(0)
  %b = f32[12,50] parameter(1)
  %n = s32[]{:T(128)S(6)} parameter(2)
  ROOT %f = f32[12,50] fusion(%a, %b, %n), kind=kLoop, calls=%fused
}
"""
    # One row of 200 bytes read through the inner fusion, one written in place.
    assert hbm_bytes_of(parse_hlo(text)) == 200 + 200
