"""One array of a file, not read yet, and the errors that all readers share. Host-side, no jax."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO

import ml_dtypes
import numpy as np

from vitjax.errors import CheckpointError, Problem

Path = str | os.PathLike[str]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
MAX_BYTES = 256 * 2**30  # of all arrays of a file together
_MAX_PROBLEMS = 200
_MAGICS = {
  b'PK': 'a zip archive, such as .npz or a PyTorch .pt',
  b'\x93NUMPY': 'a single .npy array',
  b'\x80': 'a Python pickle (an old PyTorch .pth), which is never opened: it can run code',
  b'\x89HDF': 'an HDF5 file',
  b'\x1f\x8b': 'a gzip file',
  b'<': 'HTML or XML, such as the error page of a download',
  b'version https://git-lfs': 'a Git LFS pointer, not the file itself: fetch it with `git lfs pull`',
}


@dataclasses.dataclass(frozen=True)
class Entry:
  """One array of a file: what it is, and how to read it.

  Attributes:
    shape: its shape.
    dtype: its dtype in native byte order; bfloat16 for 2-byte voids.
    read: returns the array, C-ordered and writable, in memory of its own; raises CheckpointError where the
      data is damaged.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]


def refusal(path: Path, found: str, expected: str, hint: str = '') -> CheckpointError:
  """Returns the error for a file as a whole."""
  return CheckpointError('the weights cannot be read', [Problem(str(path), found, expected, hint)])


def open_binary(path: Path) -> IO[bytes]:
  """Returns a regular file opened for reading.

  Raises:
    CheckpointError: it is missing, a folder, a device, or not readable.
  """
  try:
    if not pathlib.Path(path).exists():
      raise refusal(path, 'no such file', 'a file of weights')
    if not pathlib.Path(path).is_file():
      raise refusal(path, 'a folder or a special file', 'a file of weights')
    return pathlib.Path(path).open('rb')
  except (OSError, ValueError) as error:
    if isinstance(error, CheckpointError):
      raise
    raise refusal(path, str(error), 'a readable file') from None


def describe(head: bytes, size: int) -> str:
  """Returns what a file seems to be, from its first bytes."""
  if size == 0:
    return 'an empty file'
  for magic, name in _MAGICS.items():
    if head.startswith(magic):
      return name
  return f'a file of {size} bytes that begins with {head[:8]!r}'


class Damage(Exception):
  """What is wrong with one member: found, expected, hint."""

  def __init__(self, found: str, expected: str, hint: str = ''):
    super().__init__(found)
    self.found, self.expected, self.hint = found, expected, hint

  def problem(self, where: str) -> Problem:
    """Returns it as a Problem of one array."""
    return Problem(where, self.found, self.expected, self.hint)


def raise_damage(path: Path, problems: Sequence[Problem]) -> None:
  """Raises one CheckpointError with all that is wrong with a file; does nothing without problems."""
  if problems:
    more = len(problems) - _MAX_PROBLEMS
    rest = [Problem(f'... and {more} more')] if more > 0 else []
    raise CheckpointError(f'{path} is damaged or not what it seems', [*problems[:_MAX_PROBLEMS], *rest])


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
  """Yields a new file that takes the place of `path` when the block ends, and is removed when it fails."""
  target = pathlib.Path(path)
  with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f'.{target.name}.', delete=False) as file:
    partial = pathlib.Path(file.name)
    try:
      yield file
      file.flush()
      os.fsync(file.fileno())
      partial.chmod(0o666 & ~_umask())
      partial.replace(target)
    finally:
      partial.unlink(missing_ok=True)


def _umask() -> int:
  """Returns the process's umask: temporary files are private, finished ones should not be."""
  mask = os.umask(0)
  os.umask(mask)
  return mask
