"""`vitjax COMMAND ...`: finds the command, reads its flags, and turns errors into messages and exit codes.

Nothing heavy is imported before a command runs, so that --help and refusals are instant.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, TextIO

import vitjax
from vitjax.errors import EXIT_INTERRUPTED, EXIT_REFUSED, EXIT_RUN_FAILED, VitjaxError, exit_code

# All processes have done their work by then; those that are slow to leave are waited for.
_LAST_TURN_S = 60.0

COMMANDS = {
  'train': 'pretrain, fine-tune or resume a recipe; --dry_run shows what would happen',
  'experiment': 'run a comparison over seeds and write its page: table, plot, claims',
  'sweep': 'run a recipe over a grid of settings, choose the best on validation data',
  'verify': 'published numbers: what is missing here to reach one, or the run that compares',
  'eval': "evaluate a checkpoint on its recipe's splits, or on others",
  'probe': 'judge frozen features: few-shot, nearest neighbours or a linear probe, against raw pixels',
  'analyze': 'what a model does: attention, positions, features, receptive fields; one HTML page',
  'predict': 'classify images with a checkpoint: top-5 with class names',
  'export': 'write a model as official .npz, timm or Hugging Face files',
  'complexity': 'what convolution, recurrence and self-attention cost: formulas, counts, times',
  'data': 'show what the model will see: a contact sheet and counts per class',
  'data prepare': 'write labelled images as ArrayRecord shards, bytes unchanged',
  'plan': 'memory, communication, speed and cost of a job on hardware that is not there',
  'quickstart': 'pretrain on MNIST, transfer to digits, compare: minutes on a laptop',
  'bench': 'time the training step of a recipe on this machine, and say where the time goes',
  'doctor': 'check this environment: versions, backend, devices, memory',
}


def _overview() -> str:
  lines = [f'  {name:<12} {text}' for name, text in COMMANDS.items()]
  return (
    f'vitjax {vitjax.__version__}: pretrain Vision Transformers in JAX, and transfer them.\n\n'
    'usage: vitjax COMMAND [flags]      vitjax COMMAND --help shows flags and an example\n\n'
    + '\n'.join(lines)
    + '\n\nfirst steps: vitjax doctor, then vitjax quickstart --workdir=runs/quickstart\n'
  )


def program() -> NoReturn:
  """The `vitjax` command."""
  end(main())


def end(code: int) -> NoReturn:
  """Ends this process; those of a run of several in turn, the one that holds the coordination service last."""
  if 'jax' in sys.modules and sys.modules['jax'].distributed.is_initialized():
    from vitjax.parallel.coordination import leave

    leave(code, last_s=_LAST_TURN_S)
  for stream in (sys.stdout, sys.stderr):
    try:
      stream.flush()
    except OSError:
      _discard(stream)
  sys.exit(code)


def _discard(stream: TextIO) -> None:
  """Sends a stream that nobody takes any more nowhere; Python's own last flush would change the exit code."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command; returns the exit code: 0 done, 1 the run failed, 2 refused as asked, 42 to be started again
  (preempted and saved, or stopped by the watchdog), 130 interrupted."""
  argv = list(sys.argv[1:] if argv is None else argv)
  if not argv or argv[0] in ('-h', '--help', 'help'):
    print(_overview())
    return 0
  if argv[0] == '--version':
    print(vitjax.__version__)
    return 0
  if ' '.join(argv[:2]) in COMMANDS:
    argv[:2] = [' '.join(argv[:2])]
  if argv[0] not in COMMANDS:
    close = difflib.get_close_matches(argv[0], COMMANDS, 1)
    hint = f'did you mean {close[0]!r}?' if close else f'commands: {", ".join(COMMANDS)}'
    print(f'vitjax: no command {argv[0]!r}; {hint}', file=sys.stderr)
    return EXIT_REFUSED
  command = importlib.import_module(f'vitjax.cli.{argv[0].replace(" ", "_")}')
  parser = argparse.ArgumentParser(
    prog=f'vitjax {argv[0]}', description=command.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )  # fmt: skip
  command.add_arguments(parser)
  args, overrides = _parse(parser, argv[1:])
  try:
    return command.run(args, overrides)
  except VitjaxError as error:
    with contextlib.suppress(OSError):  # of a terminal that was closed
      print(f'vitjax {argv[0]}: {error}', file=sys.stderr)
    return exit_code(error)
  except BrokenPipeError:
    # The reader of our output has gone, as in `vitjax ... | head`: nothing is left to say.
    _discard(sys.stdout)
    return EXIT_RUN_FAILED
  except KeyboardInterrupt:
    print(f'vitjax {argv[0]}: interrupted', file=sys.stderr)
    return EXIT_INTERRUPTED


def _parse(
  parser: argparse.ArgumentParser, argv: list[str]
) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
  """Splits --config.a.b=value overrides from a command's own flags; exits with 2 on an unknown flag."""
  own, overrides = [], []
  rest = iter(argv)
  for word in rest:
    if not word.startswith('--config.'):
      own.append(word)
      continue
    path, equals, value = word.removeprefix('--config.').partition('=')
    if not equals:
      value = next(rest, None)
      if value is None:
        parser.error(f'{word}: expected a value, as in {word}=VALUE')
    overrides.append((path, value))
  args, unknown = parser.parse_known_args(own)
  if unknown:
    flags = [option for action in parser._actions for option in action.option_strings]
    close = difflib.get_close_matches(unknown[0].partition('=')[0], flags, 1)
    parser.error(f'no flag {unknown[0]!r}' + (f'; did you mean {close[0]}?' if close else '; see --help'))
  if overrides and 'config' not in args:
    parser.error(f'--config.{overrides[0][0]}: this command reads no recipe')
  return args, overrides
