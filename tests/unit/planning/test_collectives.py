"""Reading collectives out of HLO: loops multiply, one collective counts once however a backend writes it."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vitjax.config.schema import ParallelConfig
from vitjax.parallel.mesh import make_mesh
from vitjax.planning.collectives import parse_collectives, summarise

AXES = {'data': 2, 'fsdp': 4, 'model': 1}

# What a TPU writes for a scanned, fully sharded step, shortened: an all-gather spread over three fusions, a
# reduce-scatter as a fused all-reduce and slice, a loop whose length stands in its condition.
TPU = """HloModule jit_step

%start (p.0: bf16[1,8]) -> (bf16[1,8], bf16[4,8]) {
  %p.0 = bf16[1,8]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[4,8]{1,0:T(8,128)} all-gather(%p.0), replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}
}

%async_collective_fusion.7 (p.1: bf16[1,8]) -> bf16[4,8] {
  %p.1 = bf16[1,8]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[4,8]{1,0} all-gather(%p.1), replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}
}

%done (p.2: bf16[1,8]) -> bf16[4,8] {
  %p.2 = bf16[1,8]{1,0} parameter(0)
  ROOT %all-gather.3 = bf16[4,8]{1,0} all-gather(%p.2), replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}
}

%all-reduce-scatter.1 (p.3: f32[16,8]) -> f32[4,8] {
  %p.3 = f32[16,8]{1,0} parameter(0)
  %all-reduce.1 = f32[16,8]{1,0} all-reduce(%p.3), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %slice = f32[4,8]{1,0} dynamic-slice(%all-reduce.1)
}

%body (arg: (s32[], bf16[1,8])) -> (s32[], bf16[1,8]) {
  %arg = (s32[], bf16[1,8]{1,0}) parameter(0)
  %async-collective-start.1 = (bf16[1,8]{1,0}, bf16[4,8]{1,0}) fusion(%arg), kind=kCustom, calls=%start
  %fusion.7 = bf16[4,8]{1,0} fusion(%arg), kind=kOutput, calls=%async_collective_fusion.7
  %async-collective-done.1 = bf16[4,8]{1,0} fusion(%fusion.7), kind=kCustom, calls=%done
  %fusion.8 = f32[4,8]{1,0} fusion(%arg), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %tuple = (s32[], bf16[1,8]{1,0}) tuple(%arg)
}

%condition (arg: (s32[], bf16[1,8])) -> pred[] {
  %arg = (s32[], bf16[1,8]{1,0}) parameter(0)
  %limit = s32[]{:T(128)} constant(12)
  ROOT %lt = pred[] compare(%arg, %limit), direction=LT
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %while.1 = (s32[], bf16[1,8]{1,0}) while(%p), condition=%condition, body=%body
  %all-reduce.9 = (f32[4], bf16[2,3]) all-reduce(%p, %p), replica_groups=[4,2]<=[2,4]T(1,0), metadata={op_name="norm"}
  ROOT %out = f32[4]{0} get-tuple-element(%all-reduce.9), index=0
}
"""


def test_each_collective_counts_once_and_loops_multiply():
  gather, scatter, reduce = parse_collectives(TPU, AXES)
  assert (gather.kind, gather.axes, gather.group, gather.count) == ('all-gather', ('fsdp',), (0, 1, 2, 3), 12)
  assert gather.overlapped
  assert gather.payload_bytes == 4 * 8 * 2
  assert (scatter.kind, scatter.axes, scatter.count) == ('reduce-scatter', ('fsdp',), 12)
  assert scatter.payload_bytes == 16 * 8 * 4
  assert scatter.wire_bytes == 12 * 3 / 4 * 16 * 8 * 4
  assert (reduce.kind, reduce.axes, reduce.group, reduce.count) == ('all-reduce', ('data',), (0, 4), 1)
  assert reduce.payload_bytes == 4 * 4 + 6 * 2
  assert reduce.op_name == 'norm'


def test_summary_adds_up_by_kind_and_axes():
  rows = summarise(parse_collectives(TPU + '', AXES))
  assert [(kind, axes, count) for kind, axes, count, _, _ in rows] == [
    ('reduce-scatter', 'fsdp', 12),
    ('all-gather', 'fsdp', 12),
    ('all-reduce', 'data', 1),
  ]
  assert [overlapped for *_, overlapped in rows] == [0.0, 1.0, 0.0]


def test_a_loop_of_unknown_length_is_refused():
  with pytest.raises(ValueError, match='iterations'):
    parse_collectives(TPU.replace('constant(12)', 'parameter(1)'), AXES)


@pytest.mark.parametrize(
  ('groups', 'first'),
  [
    ('{{0,4},{1,5},{2,6},{3,7}}', (0, 4)),
    ('[2,4]<=[8]', (0, 1, 2, 3)),
    ('[4,2]<=[2,4]T(1,0)', (0, 4)),
    ("mesh['x'=2,'y'=4] {'y'}", (0, 1, 2, 3)),
    ("mesh['x'=2,'y'=4] {'x','y'}", (0, 1, 2, 3, 4, 5, 6, 7)),
    ("mesh['x'=8] {'x':(1)2}", (0, 4)),
    ("mesh['x'=4,'y'=1,'z'=2], device_ids=([2,4]T(1,0)) {'x'}", (0, 1, 2, 3)),
  ],
)
def test_every_way_to_write_the_participants(groups, first):
  line = f'%x = f32[8]{{0}} all-reduce(%p), channel_id=1, replica_groups={groups}, to_apply=%add'
  (found,) = parse_collectives(f'ENTRY %main (p: f32[8]) -> f32[8] {{\n  {line}\n}}\n', AXES)
  assert found.group == first


@pytest.mark.parametrize(
  ('line', 'kind', 'payload'),
  [
    ('%x = f32[2,8]{1,0} reduce-scatter(%p), replica_groups={{0,1,2,3}}', 'reduce-scatter', 4 * 64),
    ('%x = (f32[2,8]{1,0}, f32[8,8]{1,0}) all-gather-start(%p), replica_groups={{0,1,2,3}}', 'all-gather', 256),
    ('%x = f32[8,8]{1,0} all-reduce-start(%p), replica_groups={}', 'all-reduce', 256),
    ('%x = f32[8,8]{1,0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}', 'collective-permute', 256),
  ],
)  # fmt: skip
def test_payloads_of_the_plain_forms(line, kind, payload):
  (found,) = parse_collectives(f'ENTRY %main (p: f32[8]) -> f32[8] {{\n  {line}\n}}\n', AXES)
  assert (found.kind, found.payload_bytes, found.count) == (kind, payload, 1)
  assert found.overlapped == ('-start' in line)


def test_a_real_program_agrees_with_what_its_sharding_implies():
  mesh = make_mesh(ParallelConfig(data=2, fsdp=4))
  whole, rows, split = (
    NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((), (('data', 'fsdp'),), ('fsdp',))
  )

  def step(w, x):
    def body(x, _):
      x = jnp.tanh(x @ jax.lax.with_sharding_constraint(w, whole))
      return jax.lax.with_sharding_constraint(x, rows), None

    return jax.lax.scan(body, x, length=5)[0].sum()

  w = jax.ShapeDtypeStruct((16, 16), jnp.float32, sharding=split)
  x = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=rows)
  found = parse_collectives(jax.jit(step).lower(w, x).compile().as_text(), dict(mesh.shape))
  gather = [c for c in found if c.kind == 'all-gather']
  assert {(c.axes, c.payload_bytes) for c in gather} == {(('fsdp',), 16 * 16 * 4)}
  assert sum(c.count for c in gather) in (1, 5)  # hoisted out of the loop, or not
  assert {(c.kind, c.axes, c.payload_bytes) for c in found if c.kind != 'all-gather'} == {
    ('all-reduce', ('data', 'fsdp'), 4)
  }
