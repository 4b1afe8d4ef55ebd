"""Compiles the real training step for an H100 that need not be there, and checks what the compiler made of it.

  python benchmarks/h100_check.py --model=B/16 --batch=256

Needs `pip install "vitjax[cuda]"`, the CUDA plugin, and no GPU. Exit code 1: a check failed; 77: no plugin here.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
import time

_DEFINITION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = \(?(\w+)\[')
_DOT = re.compile(r'= (\w+)\[[^ ]* dot\(%?([\w.\-]+), %?([\w.\-]+)\).*?op_name="([^"]*)"')
_COLLECTIVE = re.compile(
  r' (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\('
)


@dataclasses.dataclass(frozen=True)
class Found:
  """What an optimised HLO text holds.

  Attributes:
    fused_forward: cuDNN attention calls of the forward pass.
    fused_backward: the same of the backward pass.
    float32_products: op names of matrix products whose operands are both float32.
    num_products: matrix products in all.
    collectives: kinds of communication between devices.
  """

  fused_forward: int
  fused_backward: int
  float32_products: tuple[str, ...]
  num_products: int
  collectives: tuple[str, ...]


def inspect(hlo: str) -> Found:
  """Returns what the text of a compiled step holds."""
  lines = hlo.splitlines()
  dtypes = {match[1]: match[2] for line in lines if (match := _DEFINITION.match(line))}
  products = [match for line in lines if (match := _DOT.search(line))]
  return Found(
    fused_forward=hlo.count('custom_call_target="__cudnn$fmhaSoftmax"'),
    fused_backward=hlo.count('custom_call_target="__cudnn$fmhaSoftmaxBackward"'),
    float32_products=tuple(
      match[4] for match in products if dtypes[match[2]] == 'f32' and dtypes[match[3]] == 'f32'
    ),
    num_products=len(products),
    collectives=tuple(sorted(set(_COLLECTIVE.findall(hlo)))),
  )


def problems_of(found: Found, depth: int) -> list[str]:
  """Returns what is not as it should be in the step of a plain ViT with `depth` blocks on one device."""
  problems = []
  for name, count in (('forward', found.fused_forward), ('backward', found.fused_backward)):
    if count != depth:
      problems.append(f'{count} fused attention calls in the {name} pass, expected one per block: {depth}')
  wide = [name for name in found.float32_products if '/head/' not in name]
  if wide:
    problems.append(f'{len(wide)} float32 matrix products outside the head, such as {wide[0]}')
  if not found.num_products:
    problems.append('no matrix products found: has the form of the HLO text changed?')
  if found.collectives:
    problems.append(f'communication on one device: {", ".join(found.collectives)}')
  return problems


def main() -> int:
  """Compiles, prints, and returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--model', default='B/16', help='a variant such as B/16, L/16 or H/14')
  parser.add_argument('--batch', type=int, default=256, help='examples per step')
  parser.add_argument('--depth', type=int, help='blocks, to compile faster (default: those of the model)')
  args = parser.parse_args()
  os.environ['JAX_PLATFORMS'] = 'cpu'  # the host compiles; nothing may seize a local GPU

  from vitjax.bench.adapter import bench_config
  from vitjax.config import parse_recipe
  from vitjax.planning.topology import PlanError, Topology, describe_devices
  from vitjax.training import build

  try:
    device = describe_devices(Topology.parse('h100:1x1'))[0]
  except PlanError as error:
    print(error)
    return 77
  config = bench_config(args.model, 224, args.batch, 1000, 'bfloat16', 0)
  config.model.depth = args.depth
  run = build(parse_recipe(config), devices=[device])
  began_s = time.perf_counter()
  compiled = run.step_fn.lower(run.abstract_state, run.abstract_batch()).compile()
  found = inspect(compiled.as_text())
  memory = compiled.memory_analysis()
  peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
  peak -= memory.alias_size_in_bytes
  print(f'{args.model}, batch {args.batch}, on {device.device_kind}: {time.perf_counter() - began_s:.0f} s')
  print(f'fused attention calls: {found.fused_forward} forward, {found.fused_backward} backward')
  print(f'matrix products: {found.num_products}, of which float32: {len(found.float32_products)}')
  print(f'communication: {", ".join(found.collectives) or "none"}')
  print(f'memory: {peak / 2**30:.2f} GiB')
  depth = sum('encoderblock_' in name for name in run.abstract_state.params['Transformer'])
  problems = problems_of(found, depth)
  for problem in problems:
    print(f'problem: {problem}')
  return 1 if problems else 0


if __name__ == '__main__':
  sys.exit(main())
