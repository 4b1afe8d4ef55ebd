"""B. Storage."""

from __future__ import annotations

import json
import pathlib
import random
import re
import shutil
import signal
import time

import numpy as np
import tiny
from faults import injections, runs
from faults.crash import reference
from faults.registry import Outcome, case
from faults.runs import Job, differs, run_to_end

from vitjax.checkpoint import read_meta
from vitjax.errors import CheckpointError


def _copy_of_reference(folder: pathlib.Path) -> pathlib.Path:
  workdir = folder / 'run'
  shutil.copytree(reference()[0], workdir)
  return workdir


def _newest(workdir: pathlib.Path) -> pathlib.Path:
  return max(
    (workdir / 'checkpoints').iterdir(), key=lambda path: int(path.name) if path.name.isdigit() else -1
  )


def _array_bytes(step: pathlib.Path) -> list[tuple[str, pathlib.Path, int, int]]:
  """Returns (array, file, offset, size) of the arrays whose data stand in one piece in a file that is read.

  The files that a process wrote before they were merged may hold a second copy, which nothing reads any more.
  """
  files = {file: file.read_bytes() for file in step.rglob('*') if file.is_file() and file.parent.name == 'd'}
  found = []
  for name, array in tiny.restore_arrays(step).items():
    data = array.tobytes()
    places = [(file, text.find(data)) for file, text in files.items() if len(data) >= 64 and array.any()]
    found += [(name, file, at, len(data)) for file, at in places if at >= 0]
  return [place for place in found if _is_read(step, *place[1:3])]


def _is_read(step: pathlib.Path, file: pathlib.Path, at: int) -> bool:
  """Returns whether a change of that byte changes anything: what is restored, or that it is."""
  before = runs.state_digest(step)
  _flip(file, at, 0)
  try:
    return runs.state_digest(step) != before
  except CheckpointError:
    return True
  finally:
    _flip(file, at, 0)


def _flip(file: pathlib.Path, offset: int, bit: int) -> None:
  data = bytearray(file.read_bytes())
  data[offset] ^= 1 << bit
  file.write_bytes(data)


@case(15, 'B', 'one bit flipped in array data', 'found, and the array named', full=200, slow=0)
def bit_flips(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  step = _newest(_copy_of_reference(folder))
  places = _array_bytes(step)
  outcome = Outcome(figure=f'in {len(places)} arrays of {sum(p[3] for p in places):,} bytes')
  for _ in range(count):
    name, file, at, size = rng.choice(places)
    byte, bit = at + rng.randrange(size), rng.randrange(8)
    _flip(file, byte, bit)
    try:
      tiny.restore_arrays(step)
      outcome.count(f'{name}: byte {byte}, bit {bit} passed')
    except CheckpointError as error:
      outcome.count('' if f'{name} = data with SHA-256' in str(error) else f'{name}: {error}')
    _flip(file, byte, bit)
  return outcome


@case(
  16,
  'B',
  'each checkpoint file cut in half, emptied or deleted',
  'an error that names it, or an exact restore',
  full=1,
  slow=0,
)
def damaged_files(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  del rng, count
  step = _newest(_copy_of_reference(folder))
  expected, outcome, exact = _everything(step), Outcome(), 0
  files = sorted(file for file in step.rglob('*') if file.is_file())
  for file in files:
    data = file.read_bytes()
    for how in ('cut', 'emptied', 'deleted'):
      file.unlink() if how == 'deleted' else file.write_bytes(data[: len(data) // 2] if how == 'cut' else b'')
      try:
        same = _everything(step) == expected
        exact += same
        outcome.count('' if same else f'{file.relative_to(step)} {how}: other values, silently')
      except CheckpointError as error:
        item = file.relative_to(step).parts[0]
        names = (file.name, f'{step.name}: {item}/', f'/{item} ')
        outcome.count('' if any(name in str(error) for name in names) else f'{file.name} {how}: {error}')
      file.write_bytes(data)
  outcome.figure = f'{len(files)} files x 3: {outcome.held - exact} errors, {exact} exact, 0 silent'
  return outcome


def _everything(step: pathlib.Path) -> str:
  return runs.state_digest(step) + json.dumps(read_meta(step), sort_keys=True)


@case(
  17,
  'B',
  'newest step corrupt; all steps corrupt',
  'falls back to the one before, by name; never starts from scratch in silence',
  full=1,
  slow=0,
)
def corrupt_steps(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  del rng, count
  workdir, outcome = _copy_of_reference(folder), Outcome(figure='fallback 30 -> 25; refusal of both')
  name, file, at, _ = _array_bytes(workdir / 'checkpoints' / '30')[0]
  _flip(file, at, 3)
  fault = run_to_end(workdir) or differs(workdir, reference()[0])
  text = workdir.with_name('run.log').read_text()
  if not fault and not ('step 30 is damaged; falling back to step 25' in text and name in text):
    fault = f'not named: {text[-300:]}'
  outcome.count(fault)
  for step in ('25', '30'):
    _, file, at, _ = _array_bytes(workdir / 'checkpoints' / step)[0]
    _flip(file, at, 3)
  job = Job(workdir)
  code, refused = job.wait(), 'no undamaged checkpoint'
  outcome.count('' if code == 2 and refused in job.text() else f'exit code {code}: {job.text()[-300:]}')
  return outcome


@case(
  18,
  'B',
  'full disk (3 MB tmpfs)',
  'seen within a step of the failed commit, bounded retries, exit code 1, older step intact',
  full=2,
  slow=1,
)
def full_disk(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome, seen = Outcome(), []
  for i in range(count):
    workdir = folder / f'run{i}'
    spoil = {'workdir': str(workdir), 'size': '3m', 'step': 11, 'ballast': rng.choice([40_000, 90_000])}
    job = Job(workdir, {'checkpoint.retries': 1}, injection=('on_tmpfs', spoil))
    code = job.wait()
    if code == injections.NOT_PERMITTED:
      return Outcome(skipped='this machine does not let a test mount a tmpfs')
    text = job.text()
    steps = [int(number) for number in re.findall(r'failure seen after (\d+) steps', text)]
    seen += steps
    fault = '' if code == 1 and steps and 'No space left' in text else f'exit code {code}: {text[-400:]}'
    if not fault and max(steps) > 1:
      fault = f'seen after {steps} steps'
    outcome.count(fault or _goes_on(workdir))
  outcome.figure = f'seen {max(seen, default=0)} step after at most; {len(seen)} failures, 1 retry each'
  return outcome


def _goes_on(workdir: pathlib.Path) -> str:
  """Returns '' where what a tmpfs held restores and trains to the identical end."""
  kept = pathlib.Path(f'{workdir}.kept')
  return run_to_end(kept) or differs(kept, reference()[0])


@case(
  19,
  'B',
  'read-only mount: for a second; for good',
  'a bounded retry succeeds; else an exit code',
  full=1,
  slow=1,
)
def read_only(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  del rng, count
  outcome = Outcome(figure='read-only for 1 s: 30 steps saved; for good: exit code 1')
  for name, seconds, wanted in (('a while', 1.0, 0), ('for good', 600.0, 1)):
    workdir = folder / name.replace(' ', '_')
    spoil = {'workdir': str(workdir), 'size': '8m', 'step': 11, 'read_only_s': seconds}
    job = Job(workdir, {'checkpoint.retries': 3 if wanted == 0 else 1}, injection=('on_tmpfs', spoil))
    code = job.wait()
    if code == injections.NOT_PERMITTED:
      return Outcome(skipped='this machine does not let a test mount a tmpfs')
    text = job.text()
    good = code == wanted and 'Read-only file system' in text and 'retry 1 of' in text
    outcome.count((_goes_on(workdir)) if good else f'{name}: exit code {code}: {text[-400:]}')
  return outcome


@case(
  20,
  'B',
  'storage that takes 20 s',
  'step time unaffected while it writes; what a further save waits is counted',
  full=20,
  slow=0,
)
def slow_storage(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  """`count` is the seconds that a write takes longer."""
  del rng
  outcome, laps = Outcome(), {}
  for name, injection in (
    ('fast', ('', {})),
    ('slow', ('slow_storage', {'seconds': float(count), 'first': 1})),
  ):
    workdir = folder / name
    job = Job(workdir, {'checkpoint.every': '15 steps', 'checkpoint.keep_last': 5}, injection=injection)
    outcome.count('' if job.wait() == 0 else job.text()[-400:])
    rows = runs.rows(workdir)
    # Steps 17 to 30 run while step 15 is being written.
    laps[name] = sorted(row['perf/step_time_s'] for row in rows[16:29])[6]
    text = job.text()
  stalls = [float(found) for found in re.findall(r'waited ([\d.]+) s for step 15', text)]
  outcome.count('' if stalls and count - 2 < stalls[0] < count + 3 else f'stalls {stalls}')
  ratio = laps['slow'] / laps['fast']
  outcome.count('' if ratio < 1.5 or laps['slow'] < 0.02 else f'steps take {ratio:.2f} times as long')
  outcome.figure = (
    f'median step {laps["fast"] * 1e3:.1f} ms, {laps["slow"] * 1e3:.1f} ms during the write; '
    f'the next save waited {stalls[0] if stalls else 0:.1f} s, and said so'
  )
  return outcome


@case(21, 'B', 'leftovers after kills', 'no byte more than an uninterrupted run leaves', full=20, slow=2)
def leftovers_of_kills(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  expected, seconds = reference()
  workdir, outcome = folder / 'run', Outcome()
  for _ in range(count):
    job = Job(workdir)
    job.wait_quietly(rng.random() * seconds)
    job.kill_group()
  fault = run_to_end(workdir) or differs(workdir, expected)
  found, wanted = (
    # How many files an array item is stored in depends on timing; what matters is what is no part of a step.
    {name: size for name, size in runs.files_in(path).items() if not re.match(r'checkpoints/\d+/', name)}
    for path in (workdir, expected)
  )
  steps = [sorted(path.name for path in (run / 'checkpoints').iterdir()) for run in (workdir, expected)]
  left = {name: size for name, size in found.items() if name not in wanted}
  if not fault and (left or steps[0] != steps[1]):
    fault = f'left over: {left}, {steps[0]}'
  for _ in range(count):
    outcome.count(fault)
  outcome.figure = f'{sum(left.values())} bytes left over in {len(left)} files'
  return outcome


@case(
  22, 'B', 'a checkpoint of an earlier version', 'restores to the values it was saved with', full=1, slow=1
)
def earlier_version(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  del rng, count
  from faults import fixture

  import vitjax

  workdir = folder / 'run'
  fixture.unpack(workdir)
  expected, outcome = json.loads((workdir / 'expected.json').read_text()), Outcome()
  outcome.count('' if runs.state_digest(workdir) == expected['state'] else 'another state')
  loaded = vitjax.load(workdir)
  logits = loaded.predict(fixture.images())
  error = float(np.abs(logits - np.asarray(expected['logits'])).max())
  outcome.count('' if error < 1e-4 else f'logits differ by {error:.1e}')
  fault = run_to_end(workdir, {'total': '6 steps'}, command=fixture.command(workdir))
  outcome.count(fault)
  outcome.figure = (
    f'format 1, saved by vitjax {expected["version"]}; logits within {error:.0e}; training goes on'
  )
  return outcome


@case(
  23,
  'B',
  'wrong shape, missing or extra array, another dtype',
  'one message that lists every path; nothing cast',
  full=1,
  slow=0,
)
def misfits(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  del rng, count
  workdir, outcome = _copy_of_reference(folder), Outcome()
  changes = {
    'shape': ({'model.mlp_dim': 48}, 'Dense_0/kernel'),
    'missing and extra': ({'model.pool': 'gap', 'model.num_registers': 1}, 'registers'),
    'no averages': ({'optim.ema_decay': None}, 'aux/ema_params/'),
    'dtype': ({'optim.momentum_dtype': 'bfloat16'}, 'opt_state/'),
  }
  for name, (knobs, part) in changes.items():
    job = Job(workdir, knobs)
    code = job.wait()
    message = job.text()
    listed = message.count('in the checkpoint')
    good = code == 2 and 'does not fit this run' in message and part in message and listed >= 1
    outcome.count('' if good else f'{name}: exit code {code}, {message[-300:]}')
    job.log.unlink()
  outcome.count(differs(workdir, reference()[0]))
  outcome.figure = ', '.join(changes)
  return outcome


@case(24, 'B', 'two jobs in one workdir', 'the second is refused, the first goes on', full=5, slow=0)
def two_jobs(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome, seconds = Outcome(), []
  for i in range(count):
    workdir = folder / f'run{i}'
    first = Job(workdir)
    first.wait_for_step(rng.randint(1, 15))
    first.kill(signal.SIGSTOP)  # so that it is surely there while the second one tries
    began_s = time.monotonic()
    second = Job(workdir, rank=1)
    code = second.wait()
    seconds.append(time.monotonic() - began_s)
    first.kill(signal.SIGCONT)
    fault = '' if code == 2 and f'held by process {first.pid} on' in second.text() else f'exit code {code}'
    outcome.count(
      fault or (f'first: {first.text()[-200:]}' if first.wait() else differs(workdir, reference()[0]))
    )
  outcome.figure = f'refused within {max(seconds):.1f} s, process, host and start named'
  return outcome
