"""A. Crash and resume."""

from __future__ import annotations

import functools
import json
import pathlib
import random
import shutil
import signal
import tempfile
import time

from faults import injections, runs
from faults.registry import Outcome, case
from faults.runs import Job, differs, run_to_end


@functools.cache
def reference(num_processes: int = 1) -> tuple[pathlib.Path, float]:
  """Returns the workdir of an uninterrupted run, and how long a second one took (the first compiles)."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix='vitjax-reference-'))
  seconds = 0.0
  for name in ('warm', 'run'):
    began_s = time.monotonic()
    jobs = [Job(folder / name)] if num_processes == 1 else runs.together(folder / name, num_processes)
    codes, _ = runs.wait_all(jobs)
    assert set(codes) == {0}, jobs[0].text()[-3000:]
    seconds = time.monotonic() - began_s
  return folder / 'run', seconds


def _kill_at_a_random_moment(
  rng: random.Random, workdir: pathlib.Path, seconds: float, *, in_training: bool
) -> str:
  """Starts a run and kills it at a moment of its life, or of its training alone; returns what was going on."""
  while True:
    job = Job(workdir)
    if in_training:
      job.wait_for_step(rng.randint(1, runs.TOTAL_STEPS - 2))
      job.wait_quietly(rng.random() * 0.05)
    else:
      job.wait_quietly(rng.random() * seconds)
    if job.code is None:
      break
    seconds *= 0.8  # it had ended already, which tests nothing
    shutil.rmtree(workdir)
  job.kill_group()
  saving = list((workdir / 'checkpoints').glob('*tmp*')) if workdir.exists() else []
  if saving:
    return 'in a save'
  return 'before the first row' if job.steps_logged() == 0 else 'between saves'


@case(
  1,
  'A',
  'kill -9 at random moments, async save every 5 steps',
  'the resumed run ends identical: arrays, RNG, position and metric log',
  full=50,
  slow=2,
  quick=1,
)
def kills(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  expected, seconds = reference()
  outcome, moments = Outcome(), {'before the first row': 0, 'in a save': 0, 'between saves': 0}
  for i in range(count):
    workdir = folder / f'run{i}'
    moments[_kill_at_a_random_moment(rng, workdir, seconds, in_training=bool(rng.randrange(2)))] += 1
    outcome.count(run_to_end(workdir) or differs(workdir, expected))
    shutil.rmtree(workdir)
  outcome.figure = ', '.join(f'{number} {moment}' for moment, number in moments.items())
  return outcome


@case(
  2,
  'A',
  'kill -9 in every save phase',
  'as 1: copy, write, commit, delete-old',
  full=len(injections.SAVE_PHASES),
  slow=2,
)
def save_phases(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  expected, _ = reference()
  outcome = Outcome(figure='; '.join(injections.SAVE_PHASES))
  for i, phase in enumerate(
    sorted(rng.sample(injections.SAVE_PHASES, min(count, len(injections.SAVE_PHASES))))
  ):
    workdir = folder / f'run{i}'
    job = Job(workdir, injection=('kill_in_save', {'phase': phase, 'workdir': str(workdir)}))
    code = job.wait()
    if code != -signal.SIGKILL:
      outcome.count(f'{phase}: not reached, exit code {code}')
      continue
    outcome.count(_named(phase, run_to_end(workdir) or differs(workdir, expected)))
  return outcome


def _named(name: str, fault: str) -> str:
  return f'{name}: {fault}' if fault else ''


@case(
  9,
  'A',
  'kill during the last evaluation, between row and save, after the last save',
  'evaluated again, no row twice, identical',
  full=1,
  slow=1,
)
def kills_around_the_end(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  del rng, count
  expected, _ = reference()
  outcome = Outcome(figure='last evaluation; row written, not saved; saved, not ended')
  moments = {
    'kill_at_evaluation': {'nth': 2},
    'kill_after_row': {'step': runs.TOTAL_STEPS},
    'kill_after_last_save': {},
  }
  for name, arguments in moments.items():
    workdir = folder / name
    code = Job(workdir, injection=(name, arguments)).wait()
    fault = '' if code == -signal.SIGKILL else f'not reached, exit code {code}'
    outcome.count(_named(name, fault or run_to_end(workdir) or differs(workdir, expected)))
  return outcome


@case(
  10,
  'A',
  'resume mid-epoch, at the boundary, at step 1, at the last step',
  'identical',
  full=4,
  slow=1,
)
def resume_points(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  expected, _ = reference()
  outcome = Outcome(figure='steps 17, 24 (an epoch is 12), 1 and 30')
  for step in rng.sample([17, 24, 1, 30], min(count, 4)):
    workdir = folder / f'at{step}'
    fault = run_to_end(workdir, {'stop_after': f'{step} steps'})
    outcome.count(
      _named(f'step {step}', fault or run_to_end(workdir) or runs.differs(workdir, expected, evals=False))
    )
  return outcome


@case(
  11,
  'A',
  'worker counts 0, 1, 2, 4 across a resume',
  'the same stream of examples: an identical end',
  full=1,
  slow=0,
)
def worker_counts(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  del rng, count
  expected, _ = reference()
  outcome = Outcome(figure='stops after steps 6, 13, 20; dropouts, crops and mixup included')
  workdir = folder / 'run'
  fault = ''
  for workers, stop in ((0, 6), (1, 13), (2, 20), (4, 30)):
    threads = {'data.num_workers': workers, 'stop_after': f'{stop} steps'}
    fault = fault or run_to_end(workdir, threads)
  fault = fault or runs.differs(workdir, expected, evals=False)
  for _ in range(4):
    outcome.count(fault)
  return outcome


@case(
  12,
  'A',
  'restore 1 -> 2 -> 4 -> 1 devices, 1 -> 2 processes',
  'parameters bit-equal, each example once an epoch, losses within 1e-5',
  full=1,
  slow=1,
)
def topologies(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  del rng, count
  outcome, workdir, ids = Outcome(), folder / 'run', folder / 'ids'
  sharded = {'parallel.fsdp': -1}
  segments = [(1, 1, 5), (1, 2, 10), (1, 4, 14), (1, 1, 19), (2, 1, 24)]
  before: dict[str, str] = {}
  for segment, (processes, devices, stop) in enumerate(segments):
    knobs = {**_fsdp(sharded, processes * devices), 'stop_after': f'{stop} steps'}
    arguments = {'ids': str(ids), 'restored': str(folder / 'restored'), 'segment': segment}
    injected = ('log_start', arguments)
    if processes == 1:
      jobs = [Job(workdir, knobs, env=runs.devices(devices), injection=injected)]
    else:
      injections_of = dict.fromkeys(range(processes), injected)
      jobs = runs.together(workdir, processes, knobs, devices_each=devices, injections=injections_of)
    codes, _ = runs.wait_all(jobs)
    fault = '' if set(codes) == {0} else f'exit codes {codes}: {jobs[0].text()[-400:]}'
    if not fault and before and json.loads((folder / 'restored').read_text())['params'] != before:
      fault = 'restored parameters differ'
    outcome.count(_named(f'{processes} x {devices}', fault))
    if fault:
      return outcome
    before = params_digest(workdir)
  outcome.count(each_once(ids, num_examples=96, num_steps=24))
  expected, _ = reference()
  losses = [row['train/loss'] for row in runs.rows_without_speed(workdir)]
  wanted = [row['train/loss'] for row in runs.rows_without_speed(expected)][: len(losses)]
  error = max(abs(a - b) / abs(b) for a, b in zip(losses, wanted, strict=True))
  outcome.count('' if error <= 1e-5 and len(losses) == 24 else f'losses differ by {error:.1e}')
  outcome.figure = f'1x1, 1x2, 1x4, 1x1, 2x1 processes x devices; losses within {error:.0e}'
  return outcome


def _fsdp(knobs: dict[str, int], num_devices: int) -> dict[str, int]:
  return {name: num_devices if value == -1 else value for name, value in knobs.items()}


def params_digest(workdir: pathlib.Path) -> dict[str, str]:
  """Returns {path: SHA-256} of the parameters of the newest step."""
  import tiny

  from vitjax.checkpoint import manifest

  arrays = tiny.restore_arrays(workdir)
  return {
    name.removeprefix('params/'): manifest.sha256(array)
    for name, array in arrays.items()
    if name.startswith('params/')
  }


def each_once(path: pathlib.Path, *, num_examples: int, num_steps: int, batch_size: int = 8) -> str:
  """Returns '' where the batches that made steps 1 .. num_steps hold each example exactly once per epoch.

  Args:
    path: what injections.log_start wrote; of a step that was done again, the last segment's batch counts.
  """
  steps: dict[int, tuple[int, list[int]]] = {}
  for row in map(json.loads, path.read_text().splitlines()):
    if row['step'] not in steps or steps[row['step']][0] < row['segment']:
      steps[row['step']] = (row['segment'], [])
    if steps[row['step']][0] == row['segment']:
      steps[row['step']][1].extend(row['index'])
  seen = [index for step in range(1, num_steps + 1) for index in steps[step][1]]
  for first in range(0, len(seen), num_examples):
    epoch = seen[first : first + num_examples]
    if len(set(epoch)) != len(epoch) or (len(epoch) == num_examples) > (
      set(epoch) == set(range(num_examples))
    ):
      return (
        f'epoch {first // num_examples}: {len(set(epoch))} of {num_examples} examples in {len(epoch)} rows'
      )
  return '' if len(seen) == num_steps * batch_size else f'{len(seen)} rows'


@case(13, 'A', "the same seed twice, every recipe's smoke form", 'equal losses', full=1, slow=0)
def same_seed_twice(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  del rng, count
  outcome, recipes = Outcome(), sorted((pathlib.Path(__file__).parents[2] / 'configs').glob('*.py'))
  for recipe in recipes:
    losses = []
    for name in ('a', 'b'):
      workdir = folder / f'{recipe.stem}_{name}'
      more = f',teacher={folder / "bit_a"}' if recipe.stem == 'distill' else ''
      job = Job(workdir, command=['train', f'--config={recipe}:smoke{more}', f'--workdir={workdir}'])
      code = job.wait()
      losses.append([row['train/loss'] for row in runs.rows(workdir)] if code == 0 else job.text()[-300:])
    same = losses[0] == losses[1] and isinstance(losses[0], list) and len(losses[0]) > 0
    outcome.count('' if same else f'{recipe.stem}: {losses}')
  outcome.figure = ', '.join(recipe.stem for recipe in recipes)
  return outcome
