"""F. Config and security."""

from __future__ import annotations

import contextlib
import json
import pathlib
import pickle
import random
import shutil
import tracemalloc

import forged_files
from faults import makers, runs
from faults.crash import reference
from faults.registry import Outcome, case
from faults.runs import Job, differs, run_to_end
from forged_files import Canary, MiB

from vitjax.config import load_config, parse_recipe, recipe_from_json, recipe_to_json
from vitjax.config.knobs import find_knob, walk
from vitjax.errors import CheckpointError, ConfigError


@case(
  45,
  'F',
  'mutated configs: typos, types, ranges, contradictions',
  'refused before device work, at the path, with a next step',
  full=200,
  slow=40,
)
def mutations(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  del folder
  tests = makers.unit_module('config/test_mutations')
  pool = [(edits, where, part) for edits, where, part in tests.MUTATIONS]
  for path in (path.replace('<name>', 'val') for path, _ in walk()):
    pool.append((_typo(rng, path), None, ''))
    pool.append(({path: object()}, path, ''))
    knob = find_knob(path)
    if knob is not None and knob.info.minimum is not None and not knob.type.items:
      pool.append(({path: knob.info.minimum - 1}, path, ''))
  outcome = Outcome(figure=f'of {len(pool)} mutations')
  for edits, where, part in rng.sample(pool, min(count, len(pool))):
    outcome.count(_mutation_fault(tests, edits, where, part))
  return outcome


def _typo(rng: random.Random, path: str) -> dict[str, object]:
  group, dot, name = path.rpartition('.')
  at = rng.randrange(len(name))
  return {f'{group}{dot}{name[:at]}{name[at] * 2}{name[at + 1 :]}': 1}


def _mutation_fault(tests: object, edits: dict[str, object], where: str | None, part: str) -> str:
  config = tests.apply(load_config(tests.RECIPE), edits)
  try:
    parse_recipe(config, num_devices=8)
  except ConfigError as error:
    wanted = where or next(iter(edits))
    at = [problem for problem in error.problems if problem.where == wanted]
    if not at or not all(problem.expected and problem.hint for problem in at):
      return f'{edits}: {error}'
    return '' if any(part in f'{p.expected}. {p.hint}' for p in at) else f'{edits}: {at}'
  return f'{edits}: accepted'


@case(
  46,
  'F',
  'forged weight files: pickles, zip bombs, 4 TiB headers, bad safetensors',
  'refused; no code run; bounded memory',
  full=1,
  slow=0,
)
def forged_weights(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  del rng, count
  from vitjax.weights import read_weights
  from vitjax.weights.files import read_safetensors

  canary, outcome, peak = folder / 'canary', Outcome(), 0
  files = [('a.npz', read_weights, *found) for found in forged_files.all_damaged(canary)]
  files += [('a.safetensors', read_safetensors, *found) for found in forged_files.damaged_safetensors()]
  for file, read, name, content in files:
    (folder / file).write_bytes(content)
    tracemalloc.start()
    try:
      read(folder / file)
      fault = 'accepted'
    except CheckpointError as error:
      fault = '' if file in str(error) else f'file not named: {error}'
    except Exception as error:  # noqa: BLE001 - whatever else it is, it is not held
      fault = f'{type(error).__name__}: {error}'
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    peak = max(peak, used)
    fault = (
      fault or ('' if used < 48 * MiB else f'{used / MiB:.0f} MiB') or ('code ran' if canary.exists() else '')
    )
    outcome.count(f'{name}: {fault}' if fault else '')
  outcome.figure = f'{len(files)} files; peak {peak / MiB:.0f} MiB'
  return outcome


@case(
  47,
  'F',
  "'..' and symlinks out of the workdir, code in stored JSON, pickles beside arrays",
  'nothing outside changes, nothing runs',
  full=1,
  slow=1,
)
def escapes(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  del rng, count
  import tiny

  import vitjax

  outside = folder / 'outside'
  outside.mkdir()
  (outside / 'precious').write_text('untouched')
  sentinel, outcome = folder / 'sentinel', Outcome()

  def safe(name: str, fault: str) -> None:
    if sentinel.exists():
      fault = 'code ran'
    if not fault and [file.name for file in outside.iterdir()] != ['precious']:
      fault = f'outside: {[file.name for file in outside.iterdir()]}'
    outcome.count(f'{name}: {fault}' if fault else '')

  def copy(name: str) -> pathlib.Path:
    shutil.copytree(reference()[0], folder / name)
    return folder / name

  # Half-written, deleted and replaced steps that are links: cleaning up must not follow them.
  for i, entry in enumerate(
    ('40.orbax-checkpoint-tmp', '.deleted', '.replaced', '41.orbax-checkpoint-tmp/d')
  ):
    workdir = copy(f'links{i}')
    link = workdir / 'checkpoints' / entry
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside, target_is_directory=True)
    fault = run_to_end(workdir, {'total': '36 steps'})
    safe(f'link {entry}', '' if not fault or 'exit code 2' in fault or 'exit code 1' in fault else fault)

  # Pickles that unpickling would run, in every folder of a step.
  workdir = copy('pickles')
  for place in [path for path in (workdir / 'checkpoints' / '30').rglob('*') if path.is_dir()]:
    (place / 'data.pkl').write_bytes(pickle.dumps(Canary(sentinel)))
  safe('pickles', run_to_end(workdir) or differs(workdir, reference()[0]))

  # A manifest that names arrays outside.
  workdir = copy('climbing')
  file = workdir / 'checkpoints' / '30' / 'manifest' / 'process_0_of_1.json'
  from vitjax.checkpoint import manifest

  for name in ('../../outside/x', 'params/../../../outside/precious', '/etc/passwd'):
    body = json.loads(file.read_text())['body']
    body['arrays'][name] = next(iter(body['arrays'].values()))
    file.write_text(json.dumps({'body': body, 'sha256': manifest.text_sha256(body)}))
    try:
      tiny.restore_arrays(workdir)
      safe(name, 'accepted')
    except CheckpointError:
      safe(name, '')
    del body['arrays'][name]
    file.write_text(json.dumps({'body': body, 'sha256': manifest.text_sha256(body)}))

  # Code in every text of the stored recipe.
  attack = f'__import__("pathlib").Path({str(sentinel)!r}).touch()'
  recipe = json.loads((workdir / 'checkpoints' / '30' / 'meta' / 'metadata').read_text())['recipe']
  for path in list(_texts(recipe)):
    stored = json.loads(json.dumps(recipe))
    _set(stored, path, attack)
    with contextlib.suppress(ConfigError):
      recipe_to_json(recipe_from_json(stored))
    safe(f'code in {".".join(path)}', '')
  safe('the plain one loads', '' if vitjax.load(copy('plain')).num_classes == 10 else 'no')
  outcome.figure = '0 escapes, 0 executions'
  return outcome


def _texts(node: dict[str, object], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
  found = []
  for name, value in node.items():
    found += _texts(value, (*prefix, name)) if isinstance(value, dict) else [(*prefix, name)]
  return found


def _set(node: dict[str, object], path: tuple[str, ...], value: str) -> None:
  for name in path[:-1]:
    node = node[name]
  node[path[-1]] = value


@case(48, 'F', 'listening sockets of a local run', 'loopback only', full=3, slow=1)
def sockets(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome, seen = Outcome(), set()
  for i in range(count):
    jobs = runs.together(
      folder / f'run{i}', 2, {'total': '100000 steps', 'data.num_workers': rng.choice([0, 1])}
    )
    started = jobs[0].wait_for_step(3)
    found = {
      address for job in jobs for pid in [job.pid, *runs.children(job.pid)] for address in runs.listening(pid)
    }
    runs.end_all(jobs)
    seen |= found
    foreign = sorted(
      address for address in found if not address.removeprefix('::ffff:').startswith(('127.', '::1:'))
    )
    outcome.count('' if started and found and not foreign else f'{foreign or "no sockets seen"}')
  outcome.figure = (
    f'{len(seen)} sockets seen, all on {", ".join(sorted({a.rpartition(":")[0] for a in seen}))}'
  )
  return outcome


@case(
  50,
  'F',
  'kill -9, then the logs are read',
  'at most one row lost; none twice after the resume',
  full=20,
  slow=1,
)
def logs_after_kills(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  expected, _ = reference()
  outcome, lost = Outcome(), []
  for i in range(count):
    workdir = folder / f'run{i}'
    job = Job(workdir, injection=('say_steps', {}))
    job.wait_for_step(rng.randint(1, runs.TOTAL_STEPS - 5))
    job.wait_quietly(rng.random() * 0.1)
    job.kill_group()
    said = [int(line.split()[1]) for line in job.text().splitlines() if line.startswith('step ')]
    lost.append(max(said, default=0) - job.steps_logged())
    fault = run_to_end(workdir) or differs(workdir, expected)
    outcome.count(fault or ('' if lost[-1] <= 1 else f'{lost[-1]} rows lost'))
  outcome.figure = f'{max(lost)} rows lost at most'
  return outcome
