"""Facts on which all processes of a run must agree, compared before anything is compiled."""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax._src.distributed as jax_distributed

import vitjax
from vitjax.errors import ConfigError, Problem, TrainingError

_MAX_SHOWN = 20
_rounds = 0


def coordination_client() -> Any:
  """Returns this process's client of jax's coordination service, or None in a run of one process.

  jax has no public name for it. It has key_value_set, blocking_key_value_get and wait_at_barrier.
  """
  return jax_distributed.global_state.client


def require_same(facts: Mapping[str, Any], *, what: str, timeout_s: float) -> None:
  """Returns when all processes hold equal facts. Called by all processes, in the same order; moves no arrays.

  Args:
    facts: {name: JSON value}, such as every knob of the recipe.
    what: a name for this comparison, in messages.
    timeout_s: how long to wait for the other processes.

  Raises:
    ConfigError: on every process; it lists which ranks differ from rank 0 in which facts.
    TrainingError: a process did not take part in time; its rank is named.
  """
  global _rounds
  client = coordination_client()
  if client is None or jax.process_count() == 1:
    return
  _rounds += 1
  prefix = f'vitjax/agreement/{_rounds}'
  rank = jax.process_index()
  texts = {name: json.dumps(value, sort_keys=True) for name, value in facts.items()}
  if rank != 0:
    client.key_value_set(f'{prefix}/{rank}', json.dumps(texts))
    # Rank 0 may itself wait that long for another rank before it answers.
    verdict = json.loads(_get(client, f'{prefix}/verdict', 2 * timeout_s, what, rank=0))
  else:
    verdict = _judge(client, prefix, texts, timeout_s, what)
    client.key_value_set(f'{prefix}/verdict', json.dumps(verdict))
  if verdict['missing'] is not None:
    raise _no_answer(what, verdict['missing'], timeout_s)
  if verdict['differ']:
    problems = [Problem(*texts) for texts in verdict['differ']]
    raise ConfigError(f'The processes of this run do not agree on {what}; nothing was compiled.', problems)


def _judge(client: Any, prefix: str, mine: dict[str, str], timeout_s: float, what: str) -> dict[str, Any]:
  """Rank 0's side: compares all others with itself."""
  deadline = time.monotonic() + timeout_s
  differ: dict[tuple[str, str], list[int]] = {}
  for rank in range(1, jax.process_count()):
    try:
      remaining = max(1.0, deadline - time.monotonic())
      other = json.loads(_get(client, f'{prefix}/{rank}', remaining, what, rank))
    except TrainingError:
      return {'missing': rank, 'differ': []}
    for name in {**mine, **other}:
      text = other[name] if name in other else 'nothing'
      if name not in mine or text != mine[name]:
        differ.setdefault((name, text), []).append(rank)
  problems = []
  for (name, text), ranks in list(differ.items())[:_MAX_SHOWN]:
    own = mine[name] if name in mine else 'nothing'
    hint = 'Start every process with the same files, flags and packages'
    problems.append((name, f'{text} on {_ranks(ranks)}', f'{own}, as on rank 0', hint))
  if len(differ) > _MAX_SHOWN:
    problems.append((f'and {len(differ) - _MAX_SHOWN} more', '', '', ''))
  return {'missing': None, 'differ': problems}


def _get(client: Any, key: str, timeout_s: float, what: str, rank: int) -> str:
  try:
    return client.blocking_key_value_get(key, int(timeout_s * 1000))
  except jax.errors.JaxRuntimeError as error:
    raise _no_answer(what, rank, timeout_s) from error


def _no_answer(what: str, rank: int, timeout_s: float) -> TrainingError:
  problem = Problem(
    f'rank {rank}', 'no answer', f'its {what} within {timeout_s:g} s', 'See the log of that rank'
  )
  return TrainingError('A process of this run is missing.', [problem])


def _ranks(ranks: list[int]) -> str:
  shown = ', '.join(map(str, ranks[:8])) + (f' and {len(ranks) - 8} more' if len(ranks) > 8 else '')
  return f'{"rank" if len(ranks) == 1 else "ranks"} {shown}'


@functools.cache
def code_facts() -> dict[str, str]:
  """Returns what tells one installation from another: versions, and a digest of vitjax's source files."""
  root = pathlib.Path(vitjax.__file__).parent
  digest = hashlib.sha256()
  for path in sorted(root.rglob('*.py')):
    digest.update(f'{path.relative_to(root).as_posix()}\0'.encode())
    digest.update(hashlib.sha256(path.read_bytes()).digest())
  return {
    'vitjax version': vitjax.__version__,
    'vitjax source files': digest.hexdigest()[:16],
    'jax version': jax.__version__,
  }
