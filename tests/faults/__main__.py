"""Runs cases at their full counts and writes benchmarks/FAULTS.md: `make faults`, or by hand

  PYTHONPATH=.:tests python -m faults            all cases; those done before are not run again
  PYTHONPATH=.:tests python -m faults 1 15 --again
  PYTHONPATH=.:tests python -m faults --list

Results are kept in --results between runs, so that the catalogue can be run in pieces.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[2]


def main() -> int:
  """Returns 1 when a case that ran was not held."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('cases', nargs='*', type=int, help='numbers; none: all')
  parser.add_argument('--again', action='store_true', help='run them even if there is a result')
  parser.add_argument(
    '--count', type=int, help='how often, instead of the full count; such results are not kept'
  )
  parser.add_argument('--piece', type=int, help='at most so many tries now; results of pieces add up')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--minutes', type=float, default=1e9, help='start no further case after so long')
  parser.add_argument('--list', action='store_true', help='print the catalogue')
  parser.add_argument('--results', type=pathlib.Path, default=ROOT / 'build' / 'faults.json')
  parser.add_argument('--report', type=pathlib.Path, default=ROOT / 'benchmarks' / 'FAULTS.md')
  args = parser.parse_args()
  # The settings of the tests, made before jax is imported.
  import conftest  # noqa: F401
  from faults import catalogue, report

  wanted = args.cases or sorted(catalogue.CASES)
  if unknown := [number for number in wanted if number not in catalogue.CASES]:
    parser.error(f'no case {unknown[0]}')
  if args.list:
    print('\n'.join(report.line(catalogue.CASES[number]) for number in wanted))
    return 0
  return report.run(
    [catalogue.CASES[number] for number in wanted], again=args.again, count=args.count, piece=args.piece,
    seed=args.seed, minutes=args.minutes, results=args.results, target=args.report,
  )  # fmt: skip


if __name__ == '__main__':
  sys.exit(main())
