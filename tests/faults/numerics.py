"""D. Numerics, and the accounts of F."""

from __future__ import annotations

import json
import pathlib
import random

import numpy as np
import tiny
from faults import runs
from faults.registry import Outcome, case
from faults.runs import Job

_PLAIN = {'data.mixup_alpha': 0.0}


def _finite(workdir: pathlib.Path) -> bool:
  return all(
    np.isfinite(array).all() for array in tiny.restore_arrays(workdir).values() if array.dtype.kind == 'f'
  )


@case(
  34,
  'D',
  'one NaN batch',
  'exactly one step skipped, counted; the same on all ranks; no NaN remembered',
  full=5,
  slow=0,
)
def nan_batch(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome = Outcome(figure='on 1 process, on 2, and 2 devices with their copies compared every step')
  for i in range(count):
    step = rng.randint(2, 28)
    injection = ('poisons.fail_at', {'step': step, 'kind': 'nan'})
    watched = {**_PLAIN, 'resilience.replica_check_every': '1 steps'}
    one, two = folder / f'one{i}', folder / f'two{i}'
    fault = runs.run_to_end(one, watched, injection=injection, env=runs.devices(2))
    codes, _ = runs.wait_all(runs.together(two, 2, watched, injections={0: injection, 1: injection}))
    if fault or set(codes) != {0}:
      outcome.count(fault or f'exit codes {codes}')
      continue
    tables = [runs.rows(path) for path in (one, two)]
    skipped = [[row['step'] for row in table if 'train/loss' not in row] for table in tables]
    counted = [table[-1]['train/skipped_steps'] for table in tables]
    good = skipped == [[step], [step]] and counted == [1, 1] and _finite(one) and _finite(two)
    losses = [[row['train/loss'] for row in table if 'train/loss' in row] for table in tables]
    good = good and np.allclose(*losses, rtol=1e-5)
    outcome.count('' if good else f'step {step}: skipped {skipped}, counted {counted}')
  return outcome


@case(35, 'D', 'NaN for ever', 'stops after N; the last checkpoint is finite', full=3, slow=0)
def nan_for_ever(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome = Outcome(figure='N = 3; exit code 1')
  for i in range(count):
    workdir, step = folder / f'run{i}', rng.randint(6, 20)
    injection = ('poisons.fail_at', {'step': step, 'kind': 'nan', 'times': 1000})
    job = Job(workdir, {**_PLAIN, 'resilience.max_skipped_in_a_row': 3}, injection=injection)
    code = job.wait()
    named = 'resilience.max_skipped_in_a_row = 3: expected at least the 4' in job.text()
    good = code == 1 and named and _finite(workdir) and f'step {step + 3} ' in job.text()
    outcome.count('' if good else f'exit code {code}: {job.text()[-300:]}')
  return outcome


@case(
  36,
  'D',
  'loss spike x100',
  'reported; rollback restores step and input position, and passes over the batches',
  full=3,
  slow=0,
)
def loss_spike(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome = Outcome(figure='reported; rolled back, each row once')
  for i in range(count):
    step = rng.randint(17, 19)
    knobs = {**_PLAIN, 'resilience.spike_window': 8}
    injection = ('poisons.fail_at', {'step': step, 'kind': 'spike'})
    reported, back = folder / f'reported{i}', folder / f'back{i}'
    job = Job(reported, knobs, injection=injection)
    said = job.wait() == 0 and f'step {step}: the loss, ' in job.text()
    outcome.count('' if said else f'not reported: {job.text()[-300:]}')
    job = Job(
      back, {**knobs, 'resilience.on_spike': 'rollback', 'resilience.spike_skip': 1}, injection=injection
    )
    code = job.wait()
    table = runs.rows(back) if code == 0 else []
    passed = [row['step'] for row in table if 'train/loss' not in row]
    before = [row for row in runs.rows_without_speed(reported) if row['step'] < step] if said else []
    good = passed == [step] and [row['step'] for row in table] == list(range(1, 31))
    good = good and said and [row for row in runs.rows_without_speed(back) if row['step'] < step] == before
    outcome.count('' if good else f'exit code {code}, passed over {passed}: {job.text()[-300:]}')
  return outcome


@case(
  37,
  'D',
  'NaN in the weights at the time of a save',
  'the save is refused, older steps intact',
  full=3,
  slow=0,
)
def nan_in_weights(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome = Outcome(figure='exit code 1; the array is named')
  for i in range(count):
    workdir = folder / f'run{i}'
    # In the last step before a save: the next loss is not computed before it.
    step = rng.choice([10, 15, 20])
    job = Job(workdir, injection=('poisons.damage_state', {'step': step, 'kind': 'nan'}))
    code = job.wait()
    named = f'step {step} is not saved' in job.text() and 'params/head/bias' in job.text()
    newest = max(int(path.name) for path in (workdir / 'checkpoints').iterdir() if path.name.isdigit())
    good = code == 1 and named and newest == step - 5 and _finite(workdir)
    outcome.count('' if good else f'exit code {code}, newest {newest}: {job.text()[-300:]}')
  return outcome


@case(
  51,
  'F',
  'goodput accounts with injected stalls',
  'phases sum to the wall time within 1 %, each stall in its own',
  full=3,
  slow=0,
)
def goodput(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  del rng
  outcome, errors = Outcome(), []
  for i in range(count):
    job = Job(
      folder / f'run{i}',
      {'stop_after': '15 steps'},
      injection=(
        'stalls',
        {'input_s': 2.0, 'evaluation_s': 1.5, 'save_s': 1.0, 'report': str(folder / 'clock')},
      ),
    )
    code = job.wait()
    if code != 0:
      outcome.count(f'exit code {code}: {job.text()[-300:]}')
      continue
    found = json.loads((folder / 'clock').read_text())
    spent, wall = found['seconds'], found['wall_s']
    errors.append(abs(sum(spent.values()) - wall) / wall)
    own = {'input_wait': 2.0, 'evaluation': 1.5, 'save': 1.0}
    good = errors[-1] < 0.01 and all(stall <= spent[name] < stall + 2 for name, stall in own.items())
    outcome.count('' if good else f'{spent}, wall {wall}')
  outcome.figure = f'sum within {max(errors, default=1):.2%} of the wall time'
  return outcome
