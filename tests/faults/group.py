"""C. Distributed."""

from __future__ import annotations

import pathlib
import random
import re
import signal
import socket
import time

from faults import runs
from faults.registry import Outcome, case
from faults.runs import Job

RESTART = 42
STEP_TIMEOUT_S = 6
_WATCHED = {'resilience.step_timeout_s': STEP_TIMEOUT_S, 'resilience.heartbeat_timeout_s': 30}
# From the fault to the exit: the time without a step, two looks at who moves, and the exit.
_WITHIN_S = STEP_TIMEOUT_S + 20


@case(
  25,
  'C',
  'a rank sleeps for ever inside a step',
  'all stacks written, the rank named, all exit within T',
  full=3,
  slow=0,
)
def sleeping_rank(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome, took = Outcome(), []
  for i in range(count):
    rank, step, workdir = rng.randrange(2), rng.randint(3, 15), folder / f'run{i}'
    jobs = runs.together(
      workdir, 2, _WATCHED, injections={rank: ('poisons.fail_at', {'step': step, 'kind': 'sleep'})}
    )
    jobs[0].wait_for_step(step - 2)
    codes, seconds = runs.wait_all(jobs, 90)
    took.append(seconds)
    text = '\n'.join(job.text() for job in jobs)
    named = re.search(rf'rank {rank} is behind the others|others wait for rank {rank}', text)
    stacks = [(workdir / f'stacks/rank_{r}.txt').exists() for r in range(2)]
    good = codes == [RESTART, RESTART] and named and all(stacks) and seconds < _WITHIN_S
    outcome.count(
      '' if good else f'rank {rank}: {codes} after {seconds:.0f} s, stacks {stacks}: {text[-400:]}'
    )
  outcome.figure = f'T = {STEP_TIMEOUT_S} s; all ended within {max(took):.1f} s'
  return outcome


@case(26, 'C', 'SIGSTOP to a rank', 'as 25, for the ranks that run', full=3, slow=1)
def stopped_rank(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome, took = Outcome(), []
  for i in range(count):
    rank = 1 if i % 3 else 0
    jobs = runs.together(folder / f'run{i}', 2, {**_WATCHED, 'resilience.heartbeat_timeout_s': 12})
    jobs[0].wait_for_step(rng.randint(1, 12))
    jobs[rank].kill(signal.SIGSTOP)
    other = jobs[1 - rank]
    began_s = time.monotonic()
    code = other.wait(90)
    took.append(time.monotonic() - began_s)
    text = other.text()
    runs.end_all(jobs)
    # With rank 0 stopped, the service that everything goes through is gone too: jax itself then ends the process.
    named = f'rank {rank}' in text or rank == 0
    good = code not in (0, None) and named and took[-1] < 40
    outcome.count('' if good else f'rank {rank}: exit code {code} after {took[-1]:.0f} s: {text[-400:]}')
  outcome.figure = f'ended within {max(took):.1f} s; rank 0 every third time'
  return outcome


@case(27, 'C', 'a rank never starts', 'an error with the rank, the count and the timeout', full=2, slow=1)
def absent_rank(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome, took = Outcome(), []
  for i in range(count):
    absent = rng.choice([1, 2, 3])
    jobs = runs.together(folder / f'run{i}', 4, {'resilience.start_timeout_s': 8}, absent=[absent])
    codes, seconds = runs.wait_all(jobs, 90)
    took.append(seconds)
    text = jobs[0].text()
    good = 0 not in codes and None not in codes and f'rank {absent}' in text and '4' in text and '8 s' in text
    outcome.count('' if good else f'{codes} after {seconds:.0f} s: {text[-400:]}')
  outcome.figure = f'start_timeout_s = 8: ended after {max(took):.1f} s'
  return outcome


@case(28, 'C', 'wrong process count, port taken', 'a message within seconds', full=1, slow=0)
def wrong_launch(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  del rng, count
  outcome, took = Outcome(), []
  variables = {'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{runs.free_port()}', 'JAX_NUM_PROCESSES': '2'}
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    held = f'127.0.0.1:{taken.getsockname()[1]}'
    for name, changes, part in (
      ('rank beyond the count', {'JAX_PROCESS_ID': '2'}, 'JAX_PROCESS_ID'),
      ('no number', {'JAX_PROCESS_ID': 'two'}, 'JAX_PROCESS_ID'),
      ('incomplete', {}, 'JAX_PROCESS_ID'),
      ('port taken', {'JAX_PROCESS_ID': '0', 'JAX_COORDINATOR_ADDRESS': held}, held),
    ):
      job = Job(folder / name.replace(' ', '_'), env={**variables, **changes})
      began_s = time.monotonic()
      code = job.wait(60)
      took.append(time.monotonic() - began_s)
      good = code == 2 and part in job.text() and took[-1] < 20
      outcome.count('' if good else f'{name}: exit code {code} after {took[-1]:.1f} s: {job.text()[-300:]}')
  outcome.figure = f'within {max(took):.1f} s'
  return outcome


@case(29, 'C', 'another config or other code on one rank', 'refused before compilation', full=1, slow=0)
def different_ranks(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  del rng, count
  outcome = Outcome(figure='seed, learning rate, data set, a changed module')
  changes = {
    'seed': ({'seed': 7}, ('', {}), 'seed'),
    'rate': ({'optim.peak_lr': 0.5}, ('', {}), 'optim.peak_lr'),
    'data': ({'data.source.num_examples': 104}, ('', {}), 'num_examples'),
    'code': ({}, ('other_code', {}), 'vitjax source files'),
  }
  for name, (knobs, injection, part) in changes.items():
    workdir = folder / name
    jobs = runs.together(workdir, 2, overrides_of={1: knobs}, injections={1: injection})
    codes, _ = runs.wait_all(jobs, 90)
    text = '\n'.join(job.text() for job in jobs)
    good = (
      codes == [2, 2]
      and part in text
      and 'compiling' not in text
      and not (workdir / 'metrics.jsonl').exists()
    )
    outcome.count('' if good else f'{name}: exit codes {codes}: {text[-400:]}')
  return outcome


@case(
  30,
  'C',
  'an exception on one rank only',
  'all exit non-zero within seconds, the cause logged once',
  full=3,
  slow=0,
)
def failing_rank(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome, took = Outcome(), []
  for i in range(count):
    rank, step = i % 2, rng.randint(3, 15)
    fault = ('poisons.fail_at', {'step': step, 'kind': 'raise'})
    jobs = runs.together(folder / f'run{i}', 2, injections={rank: fault})
    jobs[0].wait_for_step(step - 2)
    codes, seconds = runs.wait_all(jobs, 90)
    took.append(seconds)
    text = '\n'.join(job.text() for job in jobs)
    traces = text.count('RuntimeError: no space left on this device\n') - text.count(
      f'failed on rank {rank}: RuntimeError'
    )
    good = 0 not in codes and None not in codes and traces == 1 and 'Traceback' not in jobs[1 - rank].text()
    outcome.count('' if good else f'{codes} after {seconds:.0f} s, {traces} traces: {text[-400:]}')
  outcome.figure = f'all ended within {max(took):.1f} s'
  return outcome


@case(31, 'C', 'uneven evaluation batches across ranks', 'no hang, counts exact', full=4, slow=1)
def uneven_evaluation(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome = Outcome(figure='1, 7, 20 and 25 examples in batches of 24 over two processes, as on one')
  for number in rng.sample([1, 7, 20, 25], min(count, 4)):
    knobs = {'evals.val.source.num_examples': number, 'stop_after': '2 steps'}
    jobs = runs.together(folder / f'two{number}', 2, knobs)
    codes, _ = runs.wait_all(jobs, 90)
    if set(codes) != {0}:
      outcome.count(f'{number} examples: exit codes {codes}: {jobs[0].text()[-300:]}')
      continue
    fault = runs.run_to_end(folder / f'one{number}', knobs)
    pair = [runs.rows(folder / f'{name}{number}')[-1] for name in ('one', 'two')]
    same = abs(pair[0]['val/loss'] - pair[1]['val/loss']) < 1e-5
    counted = [row['val/num_examples'] for row in pair] == [number, number]
    outcome.count(fault or ('' if same and counted else f'{number} examples: {pair}'))
  return outcome


@case(32, 'C', 'one rank many times slower', 'the straggler is named', full=2, slow=0)
def straggler(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome = Outcome(figure='half a second more for each batch of one rank')
  for i in range(count):
    rank = (i + rng.randrange(2)) % 2
    slow = ('poisons.fail_at', {'step': 3, 'kind': 'slow', 'times': 12})
    jobs = runs.together(folder / f'run{i}', 2, {'stop_after': '14 steps'}, injections={rank: slow})
    codes, _ = runs.wait_all(jobs, 120)
    named = [
      row['perf/straggler_rank'] for row in runs.rows(folder / f'run{i}') if 'perf/straggler_rank' in row
    ]
    good = set(codes) == {0} and named and set(named) == {float(rank)}
    outcome.count('' if good else f'rank {rank}, exit codes {codes}: named {named}')
  return outcome


@case(
  33,
  'C',
  'one parameter changed on one replica',
  'found at the next comparison, the device named',
  full=3,
  slow=0,
)
def flipped_replica(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome = Outcome(figure='one weight on one of 4 devices; compared every 5 steps')
  for i in range(count):
    step = rng.randint(6, 9)
    job = Job(
      folder / f'run{i}',
      {'resilience.replica_check_every': '5 steps'},
      injection=('poisons.damage_state', {'step': step, 'kind': 'replica'}),
      env=runs.devices(4),
    )
    code = job.wait()
    found = 'step 10: copies of the same array differ' in job.text() and 'params/head/bias' in job.text()
    outcome.count('' if code == 1 and found else f'exit code {code}: {job.text()[-400:]}')
  return outcome
