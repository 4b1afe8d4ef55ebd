"""Plan a job on hardware that is not there: memory, communication, bounds on speed, cost; or why it cannot fit.

  vitjax plan --config=configs/pretrain.py:model=H/14 --topology=v5e:16x16 --config.model.remat=dots \\
    --config.model.layers=scan --price_per_hour=1.2
  vitjax plan --config=configs/pretrain.py:model=22B/14 --topology=v5p:8x8x8 --sweep_mesh ...
  vitjax plan --config=configs/pretrain.py:smoke --topology=cpu:8

The real train step is compiled for the topology: v5e:16x16, v5p:8x8x8, 2xv6e:16x16 (two slices), h100:8x4 (8 GPUs in
each of 4 nodes), or cpu:N (virtual devices: shardings and collectives only). The data need not be here. TPUs need
`pip install "vitjax[plan]"`, GPUs "vitjax[cuda]". layers=scan compiles fastest.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  parser.add_argument(
    '--config',
    required=True,
    metavar='FILE[:arg=value,...]',
    help='a recipe; --config.a.b=VALUE changes a knob',
  )
  parser.add_argument('--topology', required=True, metavar='KIND:SHAPE', help='such as v5e:16x16 or h100:8x4')
  parser.add_argument('--num_examples', type=int, help='training examples, where the data set is not here')
  parser.add_argument('--num_classes', type=int, help='classes, where the data set is not here')
  parser.add_argument(
    '--estimate', action='store_true', help='compile nothing: estimated memory and collectives, in seconds'
  )
  parser.add_argument(
    '--sweep_mesh', action='store_true', help='compare meshes and remat policies, and recommend one'
  )
  parser.add_argument(
    '--compile_best',
    type=int,
    default=2,
    metavar='N',
    help='with --sweep_mesh: compile the N best (default 2)',
  )
  parser.add_argument(
    '--scaling', metavar='FILE', help='write weak and strong scaling up to this topology to a Markdown file'
  )
  parser.add_argument('--price_per_hour', type=float, help='of one device; gives the cost')
  parser.add_argument(
    '--mfu', type=float, help='utilisation to expect for duration and cost; default: the bound'
  )
  parser.add_argument(
    '--storage_gb_per_s', type=float, default=1.0, help='rate of writing a checkpoint, all hosts (default 1)'
  )


def run(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
  """Prints the plan; returns 2 (and the knobs that help) for a job that does not fit."""
  from vitjax.config import load_config

  config = load_config(args.config, overrides)

  from vitjax.cli.environment import prepare

  prepare()
  topology = _topology(args)
  from vitjax.planning.job import compile_job, estimate_job
  from vitjax.planning.report import Assumptions, report
  from vitjax.planning.standin import stand_in as make_stand_in
  from vitjax.planning.topology import describe_devices, prepare_process

  prepare_process(topology)
  devices = describe_devices(topology)
  stand_in = make_stand_in(
    config, num_devices=len(devices), num_examples=args.num_examples, num_classes=args.num_classes
  )
  if args.scaling is not None:
    from vitjax.planning.scaling import write_scaling

    write_scaling(args.scaling, stand_in.recipe, topology, compile_best=args.compile_best, progress=print)
    print(f'wrote {args.scaling}')
    return 0
  if args.sweep_mesh:
    return _sweep(args, topology, devices, stand_in.recipe)
  job = estimate_job(stand_in.recipe, devices, topology.hardware)
  if not args.estimate:
    job = compile_job(job)
  storage = args.storage_gb_per_s * 1e9
  print(report(job, topology, stand_in.note, Assumptions(args.price_per_hour, args.mfu, storage)))
  if job.fits:
    return 0
  raise _refusal(job)


def _topology(args: argparse.Namespace):
  """Returns the parsed topology, after a look at the other flags."""
  from vitjax.errors import ConfigError, Problem
  from vitjax.planning.topology import Topology

  problems = [
    Problem(f'--{name}', str(value), 'above 0')
    for name, value in vars(args).items()
    if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0
  ]
  if args.mfu is not None and args.mfu > 1:
    problems.append(Problem('--mfu', str(args.mfu), 'at most 1', 'It is a share, such as 0.45'))
  topology = Topology.parse(args.topology)
  if topology.hardware is None and (args.sweep_mesh or args.scaling is not None):
    hint = 'Virtual CPU devices have no speed to compare'
    problems.append(
      Problem('--topology', args.topology, 'an accelerator for --sweep_mesh and --scaling', hint)
    )
  if problems:
    raise ConfigError('flags that make no sense', problems)
  return topology


def _sweep(args: argparse.Namespace, topology, devices, recipe) -> int:
  """Prints the table of meshes and remat policies and the recommendation."""
  from vitjax.planning.report import comparison
  from vitjax.planning.sweep import sweep

  jobs, best = sweep(
    recipe, topology, devices, compile_best=0 if args.estimate else args.compile_best, progress=print
  )
  print(comparison(jobs, best))
  if not best:
    raise _refusal(min(jobs, key=lambda job: job.memory_bytes))
  # A compiled job counts what the compiler leaves exposed, an estimated one does not: prefer what is known.
  checked = [job for job in jobs if job.compiled is not None and job.fits]
  chosen = (checked or best)[0]
  shape, remat = chosen.run.mesh.shape, chosen.run.recipe.model.remat
  flags = ' '.join(f'--config.parallel.{name}={shape[name]}' for name in ('fsdp', 'model'))
  print(f'* nothing is both smaller and faster. Recommended: {flags} --config.model.remat={remat}')
  if checked:
    print('Steps of compiled rows count all communication that nothing hides; the other rows estimate it.')
  tight = chosen.memory_bytes / topology.hardware.hbm_bytes
  if tight > 0.9:
    print(f'It uses {tight:.0%} of the memory; later stars leave more room.')
  return 0


def _refusal(job):
  """Returns the error of a job that does not fit: the figure, the limit, and the knobs that help."""
  from vitjax.errors import Problem
  from vitjax.planning.job import what_helps
  from vitjax.planning.topology import PlanError

  gib = 2**30
  limit = f'at most {job.hardware.hbm_bytes / gib:.2f} GiB'
  if job.refusal is not None:
    found = f'{job.refusal.needed / gib:.2f} GiB by the compiler'
  else:
    found = f'{job.memory_bytes / gib:.2f} GiB by the {"estimate" if job.compiled is None else "compiler"}'
  problems = [Problem('memory per device', found, limit)]
  problems += [Problem(change, '', f'{total / gib:.2f} GiB (estimated)') for change, total in what_helps(job)]
  if len(problems) == 1:
    problems.append(
      Problem('--topology', '', 'more devices: no remat, fsdp, accumulation or batch size is enough')
    )
  return PlanError('the job does not fit. What helps:', problems)
