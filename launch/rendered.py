"""What an engine gets: perhaps a file, and the commands that a person or this program runs."""

from __future__ import annotations

import dataclasses
import shlex


@dataclasses.dataclass(frozen=True)
class Rendered:
  """A job, rendered for one engine.

  Attributes:
    steps: {name: argv} of commands for the machine that submits, in the order in which they are used. None of
      them goes through a shell here.
    file: the text of the job file, None where the engine takes none.
    file_name: where it is written unless --out says otherwise; the steps name it.
  """

  steps: dict[str, list[str]]
  file: str | None = None
  file_name: str = ''

  def __str__(self) -> str:
    lines = [] if self.file is None else [f'# {self.file_name}', self.file.rstrip('\n'), '']
    return '\n'.join([*lines, *(f'# {name}:  {shlex.join(argv)}' for name, argv in self.steps.items())])
