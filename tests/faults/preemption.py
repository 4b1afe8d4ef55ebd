"""A. Crash and resume, the cases with several processes and signals."""

from __future__ import annotations

import pathlib
import random
import shutil
import signal
import statistics
import time

from faults import runs
from faults.crash import reference
from faults.registry import Outcome, case
from faults.runs import Job, differs, run_to_end

HEARTBEAT_S = 10
_QUICK_HEARTBEAT = {'resilience.heartbeat_timeout_s': HEARTBEAT_S}
RESTART = 42
EVAL_EVERY = 15  # of the recipe


def _restarted(workdir: pathlib.Path, num_processes: int) -> str:
  """Starts the run again, to its end; returns '' where that is the end of an uninterrupted one."""
  jobs = runs.together(workdir, num_processes)
  codes, _ = runs.wait_all(jobs)
  if set(codes) != {0}:
    failed = next(job for job, code in zip(jobs, codes, strict=True) if code != 0)
    return f'restart: exit codes {codes}: {failed.text()[-300:]}'
  return differs(workdir, reference(num_processes)[0])


def _kill_one(rng: random.Random, workdir: pathlib.Path, num_processes: int, rank: int) -> tuple[str, float]:
  """Kills one process of a run under way; returns what went wrong, and how long the others went on."""
  while True:
    jobs = runs.together(workdir, num_processes, _QUICK_HEARTBEAT)
    reached = jobs[0].wait_for_step(rng.randint(1, 20))
    time.sleep(rng.random() * 0.05)
    if not reached:
      runs.end_all(jobs)
      return f'did not start: {jobs[0].text()[-300:]}', 0.0
    jobs[rank].kill()
    others = [job for job in jobs if job is not jobs[rank]]
    codes, seconds = runs.wait_all(others, HEARTBEAT_S + 10)
    runs.end_all(jobs)
    if 0 not in codes:
      break
    shutil.rmtree(workdir)  # it was at its end already
  if None in codes or seconds > HEARTBEAT_S + 5:
    return f'others ended after {seconds:.1f} s with {codes}', seconds
  return '', seconds


def _kills_of_one(rng: random.Random, count: int, folder: pathlib.Path, ranks: list[int]) -> Outcome:
  outcome, took = Outcome(), []
  for i in range(count):
    workdir = folder / f'run{i}'
    num_processes = 4 if i % 5 == 4 else 2
    rank = rng.choice([rank for rank in ranks if rank < num_processes])
    fault, seconds = _kill_one(rng, workdir, num_processes, rank)
    took.append(seconds)
    outcome.count(fault or _restarted(workdir, num_processes))
    shutil.rmtree(workdir, ignore_errors=True)
  outcome.figure = (
    f'others ended within {max(took):.1f} s (heartbeat {HEARTBEAT_S} s); 2 processes, every 5th time 4'
  )
  return outcome


@case(
  3,
  'A',
  'one process of several killed',
  'the others exit within heartbeat + 5 s; the restart is identical',
  full=20,
  slow=1,
)
def kill_one_rank(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  return _kills_of_one(rng, count, folder, [1, 2, 3])


@case(4, 'A', 'the coordinator killed', 'as 3', full=5, slow=0)
def kill_the_coordinator(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  return _kills_of_one(rng, count, folder, [0])


def _percentiles(seconds: list[float]) -> str:
  ordered = sorted(seconds) or [0.0]
  p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
  return f'signal to exit: p50 {statistics.median(ordered):.2f} s, p95 {p95:.2f} s'


@case(
  5,
  'A',
  'SIGTERM to one process of two',
  'the same step saved by both, exit code 42; the restart is identical',
  full=20,
  slow=0,
)
def terminate_one(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome, took = Outcome(), []
  while outcome.times < count:
    workdir = folder / f'run{outcome.times}'
    jobs = runs.together(workdir, 2)
    jobs[0].wait_for_step(rng.randint(1, 18))
    time.sleep(rng.random() * 0.03)
    jobs[rng.randrange(2)].kill(signal.SIGTERM)
    codes, seconds = runs.wait_all(jobs, 60)
    if codes == [0, 0]:
      shutil.rmtree(workdir)  # it was at its end already
      continue
    took.append(seconds)
    fault = '' if codes == [RESTART, RESTART] else f'exit codes {codes}: {jobs[0].text()[-300:]}'
    step = jobs[0].steps_logged()
    # The row of a step whose evaluation was left comes with the next start.
    possible = (step, step + 1) if (step + 1) % EVAL_EVERY == 0 else (step,)
    saved = any((workdir / f'checkpoints/{s}/manifest/process_1_of_2.json').exists() for s in possible)
    outcome.count(fault or ('' if saved else f'step {step} not saved') or _restarted(workdir, 2))
  outcome.figure = _percentiles(took)
  return outcome


@case(
  6,
  'A',
  'SIGTERM to the whole process group, input workers included',
  'saved, exit code 42; the resumed run is identical',
  full=20,
  slow=1,
)
def terminate_group(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome, took = Outcome(), []
  while outcome.times < count:
    workdir = folder / f'run{outcome.times}'
    job = Job(workdir, {'data.num_workers': 1 + outcome.times % 2})
    job.wait_for_step(rng.randint(1, 18))
    began_s = time.monotonic()
    job.kill_group(signal.SIGTERM)
    code = job.wait(60)
    if code == 0:
      shutil.rmtree(workdir)
      continue
    took.append(time.monotonic() - began_s)
    fault = '' if code == RESTART else f'exit code {code}: {job.text()[-300:]}'
    outcome.count(fault or run_to_end(workdir) or differs(workdir, reference()[0]))
  outcome.figure = f'{_percentiles(took)}; 1 and 2 workers'
  return outcome


@case(
  7,
  'A',
  'SIGTERM during compilation, restore, evaluation, final save',
  'saves or leaves clean; then identical',
  full=4,
  slow=0,
)
def terminate_anywhere(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  moments = ['compilation', 'restore', 'evaluation', 'final save']
  outcome, ends = Outcome(), []
  for moment in rng.sample(moments, min(count, len(moments))):
    workdir = folder / moment.replace(' ', '_')
    fault = ''
    if moment == 'restore':
      fault = run_to_end(workdir, {'stop_after': '10 steps'})
    job = Job(workdir, injection=('terminate_during', {'moment': moment}))
    code = job.wait()
    ends.append(f'{moment}: {code}')
    if not fault and (code not in (0, RESTART) or f'SIGTERM during {moment}' not in job.text()):
      fault = f'exit code {code}: {job.text()[-300:]}'
    stopped_early = moment == 'restore'
    fault = fault or run_to_end(workdir) or differs(workdir, reference()[0], evals=not stopped_early)
    outcome.count(f'{moment}: {fault}' if fault else '')
  outcome.figure = f'exit codes {", ".join(sorted(ends))}'
  return outcome


@case(
  8,
  'A',
  'two SIGTERMs, then SIGKILL 5 s later, in a save that hangs',
  'the older step intact: identical after the restart',
  full=20,
  slow=0,
)
def terminate_then_kill(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome = Outcome(figure='saves take 60 s; four runs at a time')
  for first in range(0, count, 4):
    slow = ('slow_storage', {'seconds': 60.0, 'first': 2})
    jobs = [Job(folder / f'run{i}', injection=slow) for i in range(first, min(first + 4, count))]
    for job in jobs:
      job.wait_for_step(rng.randint(6, 9))
      job.kill(signal.SIGTERM)
    time.sleep(0.3)
    for job in jobs:
      job.kill(signal.SIGTERM)
    time.sleep(5.0)
    early = [job.code for job in jobs]
    for job in jobs:
      job.kill_group()
    for job, code in zip(jobs, early, strict=True):
      steps = sorted(path.name for path in (job.workdir / 'checkpoints').iterdir() if path.name.isdigit())
      fault = '' if code is None and steps == ['5'] else f'ended with {code} before SIGKILL; steps {steps}'
      outcome.count(fault or run_to_end(job.workdir) or differs(job.workdir, reference()[0]))
  return outcome


@case(14, 'A', 'crash loop: restarts without progress', 'stops after 5, names the cause', full=3, slow=0)
def crash_loop(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome = Outcome()
  for i in range(count):
    workdir, codes = folder / f'run{i}', []
    fault_at = ('poisons.fail_at', {'step': rng.randint(1, 4), 'kind': 'raise'})
    for _ in range(6):
      job = Job(workdir, {'resilience.max_starts_without_progress': 5}, injection=fault_at)
      codes.append(job.wait())
    text = job.text()
    good = 0 not in codes and '5 starts in a row' in text
    named = 'no space left on this device' in text.split('5 starts in a row')[-1]
    outcome.count('' if good and named else f'exit codes {codes}: {text[-300:]}')
  outcome.figure = 'the sixth start is refused and says why the fifth ended'
  return outcome
