"""What a job is, the same for every engine."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence

from vitjax.errors import ConfigError, Problem

# Kubernetes' rule for names (RFC 1123), short enough for the suffixes that engines add; it suits all engines.
NAME = re.compile(r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?')
# Words that engines place where nothing can be quoted: directives of a batch file, labels, zones.
WORD = re.compile(r'[A-Za-z0-9][-A-Za-z0-9_.:,/@=+]*')
_CONTROL = re.compile(r'[\x00-\x1f\x7f]')
_OVERRIDE_PATH = re.compile(r'[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*')


@dataclasses.dataclass(frozen=True)
class Job:
  """One training job.

  Attributes:
    name: of the job at the engine: small letters, digits and '-', at most 40.
    hosts: how many hosts; each runs one process that drives all its devices.
    devices: accelerators of each host; 0: none, or what the engine's machine type says.
    config: the recipe file with its argument, as it is called on the hosts: 'configs/pretrain.py:model=L/16'.
    workdir: where checkpoints go, a path that all hosts see.
    overrides: (dotted path, value as text) pairs, as on vitjax's command line.
    program: what starts vitjax on a host.
    folder: the folder on the hosts in which it starts, None: where the engine puts it.
  """

  name: str
  hosts: int
  config: str
  workdir: str
  devices: int = 0
  overrides: tuple[tuple[str, str], ...] = ()
  program: tuple[str, ...] = ('vitjax',)
  folder: str | None = None

  def argv(self) -> list[str]:
    """Returns the command that every host runs, one word per entry; no shell has read it."""
    flags = [f'--config={self.config}', f'--workdir={self.workdir}']
    return [*self.program, 'train', *flags, *(f'--config.{path}={value}' for path, value in self.overrides)]

  def shell_line(self) -> str:
    """Returns `argv` quoted for a POSIX shell, on one line: no word of it is expanded or executed."""
    line = shlex.join(self.argv())
    return line if self.folder is None else f'cd {shlex.quote(self.folder)} && {line}'


def check(job: Job, words: Sequence[tuple[str, str | None]] = ()) -> None:
  """Raises ConfigError with everything that is wrong with a job.

  Args:
    job: the job.
    words: (flag, value) of an engine's own settings that cannot be quoted where they stand; None: not set.
  """
  problems = []
  if not NAME.fullmatch(job.name):
    expected = "at most 40 small letters, digits and '-', a letter first"
    problems.append(Problem('--name', repr(job.name), expected))
  for flag, number, least in (('--hosts', job.hosts, 1), ('--devices', job.devices, 0)):
    if number < least:
      problems.append(Problem(flag, str(number), f'at least {least}'))
  texts = [
    ('--config', job.config),
    ('--workdir', job.workdir),
    *((f'--config.{p}', v) for p, v in job.overrides),
  ]
  texts += [('--program', word) for word in job.program]
  texts += [] if job.folder is None else [('--folder', job.folder)]
  for flag, text in texts:
    if _CONTROL.search(text):
      problems.append(Problem(flag, repr(text), 'text without line breaks and control characters'))
    if not text and not flag.startswith('--config.'):
      problems.append(Problem(flag, "''", 'something'))
  problems += [
    Problem(f'--config.{path}', '', 'a dotted path of a knob')
    for path, _ in job.overrides
    if not _OVERRIDE_PATH.fullmatch(path)
  ]
  problems += [
    Problem(flag, repr(text), 'a word of letters, digits and -_.:,/@=+')
    for flag, text in words
    if text is not None and not WORD.fullmatch(text)
  ]
  refuse(problems)


def refuse(problems: Sequence[Problem]) -> None:
  """Raises ConfigError if there are problems."""
  if problems:
    raise ConfigError('This job cannot be rendered.', problems)
