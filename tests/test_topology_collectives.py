"""Collectives of compiled programs: handwritten ones, and layouts that are known."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.config import MeshConfig
from bert_jax.topology.collectives import collectives_of, ring_bytes
from bert_jax.topology.hlo import parse_hlo
from bert_jax.train.mesh import make_mesh

MESH = {"slice": 1, "data": 2, "fsdp": 2, "sequence": 1, "tensor": 2}
PAIRS = "replica_groups={{0,1},{2,3},{4,5},{6,7}}"


def found(*lines, mesh=MESH, before=""):
    body = "\n".join(f"  {line}" for line in lines)
    text = f"{before}\nENTRY %main () -> f32[] {{\n{body}\n}}\n"
    return collectives_of(parse_hlo(text), mesh)


@pytest.mark.parametrize(
    ("kind", "n", "expected"),
    [
        ("all-reduce", 4, 150.0),
        ("all-gather", 4, 75.0),
        ("reduce-scatter", 4, 75.0),
        ("all-to-all", 4, 75.0),
        ("collective-permute", 2, 100.0),
        ("all-reduce", 1, 0.0),
    ],
)
def test_a_ring_sends_what_it_must(kind, n, expected):
    assert ring_bytes(kind, 100.0, n) == expected


@pytest.mark.parametrize(
    ("lines", "kind", "payload"),
    [
        (["ROOT %r = f32[8] all-reduce(%x), " + PAIRS], "all-reduce", 32),
        (["ROOT %r = f32[16] all-gather(%x), " + PAIRS], "all-gather", 64),
        (["ROOT %r = f32[4] reduce-scatter(%x), " + PAIRS], "reduce-scatter", 32),
        (["ROOT %r = f32[8] all-to-all(%x), " + PAIRS], "all-to-all", 32),
        (
            [
                f"%s = (f32[8], f32[16]) all-gather-start(%x), {PAIRS}",
                "ROOT %r = f32[16] all-gather-done(%s)",
            ],
            "all-gather",
            64,
        ),
        (
            [
                f"%s = f32[8] all-reduce-start(%x), {PAIRS}",
                "ROOT %r = f32[8] all-reduce-done(%s)",
            ],
            "all-reduce",
            32,
        ),
        (
            [
                "%s = (f32[8], f32[8], u32[], u32[]) collective-permute-start(%x), "
                "source_target_pairs={{0,1},{2,3}}",
                "ROOT %r = f32[8] collective-permute-done(%s)",
            ],
            "collective-permute",
            32,
        ),
    ],
)
def test_every_kind_is_found_with_its_full_array(lines, kind, payload):
    (one,) = found("%x = f32[8] parameter(0)", *lines)
    assert (one.kind, one.axes, one.group_size) == (kind, ("tensor",), 2)
    assert (one.count, one.dtype, one.payload_bytes) == (1, "f32", payload)
    assert one.moved_bytes == ring_bytes(kind, payload, 2)


def test_arrays_that_travel_together_are_added():
    (one,) = found(
        "%x = bf16[100] parameter(0)",
        "%y = f32[8] parameter(1)",
        f"ROOT %r = (bf16[100], f32[8]) all-reduce(%x, %y), {PAIRS}",
    )
    assert (one.payload_bytes, one.dtype, one.count) == (232, "bf16", 1)


def test_an_asynchronous_computation_counts_once():
    wrapped = f"""
%wrapped (p: f32[8]) -> f32[4] {{
  %p = f32[8] parameter(0)
  ROOT %s = f32[4] reduce-scatter(%p), {PAIRS}
}}
"""
    (one,) = found(
        "%x = f32[8] parameter(0)",
        "%a = ((f32[8]), f32[4], u32[]) async-start(%x), calls=%wrapped",
        "ROOT %d = f32[4] async-done(%a)",
        before=wrapped,
    )
    assert (one.kind, one.count, one.payload_bytes) == ("reduce-scatter", 1, 32)


def test_a_gather_that_the_tpu_hides_behind_others_counts_where_it_starts():
    gather = f"f32[16] all-gather(%p), channel_id=4, {PAIRS}"
    fused = f"""
%start (p: f32[8]) -> f32[16] {{
  %p = f32[8] parameter(0)
  %g = {gather}
  ROOT %c = f32[16] custom-call(%g), custom_call_target="AsyncCollectiveStart"
}}
%async_collective_fusion.3 (p: f32[8]) -> f32[16] {{
  %p = f32[8] parameter(0)
  ROOT %g = {gather}
}}
%done (p: f32[8]) -> f32[16] {{
  %p = f32[8] parameter(0)
  %g = {gather}
  ROOT %c = f32[16] custom-call(%g), custom_call_target="AsyncCollectiveDone"
}}
"""
    (one,) = found(
        "%x = f32[8] parameter(0)",
        "%a = f32[16] fusion(%x), kind=kCustom, calls=%start",
        "%b = f32[16] fusion(%x), kind=kOutput, calls=%async_collective_fusion.3",
        "ROOT %r = f32[16] fusion(%x), kind=kCustom, calls=%done",
        before=fused,
    )
    assert (one.kind, one.count, one.payload_bytes) == ("all-gather", 1, 64)


def test_a_reduction_that_is_scattered_at_once_is_one_kind():
    fused = f"""
%all-reduce-scatter.1 (p: f32[8]) -> f32[4] {{
  %p = f32[8] parameter(0)
  %i = s32[] constant(0)
  %a = f32[8] all-reduce(%p), {PAIRS}
  ROOT %c = f32[4] dynamic-slice(%a, %i), dynamic_slice_sizes={{4}}
}}
"""
    (one,) = found(
        "%x = f32[8] parameter(0)",
        "ROOT %r = f32[4] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1",
        before=fused,
    )
    assert (one.kind, one.payload_bytes, one.moved_bytes) == ("reduce-scatter", 32, 16)


def test_slices_of_tpus_speak_through_their_hosts():
    mesh = {"slice": 2, "data": 4, "fsdp": 1, "sequence": 1, "tensor": 1}
    inside, between = found(
        "%x = f32[8] parameter(0)",
        "%t = token[] after-all()",
        # Devices are numbered within a slice.
        "%r = f32[8] all-reduce(%x), replica_groups={{0,1,2,3}}",
        "%s = (f32[8], u32[], token[]) send(%r, %t), is_host_transfer=true, "
        'frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}',
        "ROOT %d = token[] send-done(%s), is_host_transfer=true",
        mesh=mesh,
    )
    assert (inside.axes, inside.group_size, inside.whole_axes) == (("data",), 4, True)
    assert (between.kind, between.axes) == ("all-reduce", ("slice",))
    assert (between.count, between.payload_bytes) == (1, 32)


def of_program(function, mesh, *shapes):
    """Collectives of `function` over arrays of (shape, spec)."""
    args = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in shapes
    ]
    whole = NamedSharding(mesh, P())
    text = jax.jit(function, out_shardings=whole).lower(*args).compile().as_text()
    return collectives_of(parse_hlo(text), dict(mesh.shape))


def test_a_sum_over_split_rows_is_one_reduction_along_their_axes():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    (one,) = of_program(
        lambda x: x.sum(axis=0), mesh, ((8, 64), P(("data", "fsdp"), None))
    )
    assert (one.kind, one.axes, one.group_size) == ("all-reduce", ("data", "fsdp"), 4)
    assert (one.count, one.payload_bytes) == (1, 64 * 4)
    assert one.moved_bytes == math.ceil(2 * 3 / 4 * 64 * 4)


def test_a_split_array_that_must_be_whole_is_gathered():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    (one,) = of_program(lambda x: x * 2.0, mesh, ((8, 64), P("fsdp", None)))
    assert (one.kind, one.axes) == ("all-gather", ("fsdp",))
    assert one.payload_bytes == 8 * 64 * 4


def test_a_reduction_in_a_scan_counts_every_round():
    mesh = make_mesh(MeshConfig(data=4, tensor=2))
    row = NamedSharding(mesh, P(None, "tensor"))

    def function(x, w):
        def layer(x, _):
            x = jax.lax.with_sharding_constraint(x, row)
            return jax.lax.with_sharding_constraint(
                jnp.sin(x @ w), NamedSharding(mesh, P())
            ), None

        return jax.lax.scan(layer, x, None, length=6)[0]

    found = of_program(function, mesh, ((16, 32), P()), ((32, 32), P("tensor", None)))
    (one,) = (c for c in found if c.kind == "all-reduce")
    assert (one.kind, one.axes, one.count) == ("all-reduce", ("tensor",), 6)
    assert one.payload_bytes == 6 * 16 * 32 * 4
