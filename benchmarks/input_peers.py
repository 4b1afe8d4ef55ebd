"""Times vitjax's input pipeline beside those of TensorFlow, timm and PIL, in one run, and writes a Markdown table.

python benchmarks/input_peers.py --python tensorflow=TF/bin/python --python timm=TORCH/bin/python --out table.md

The peers may live in environments of their own; one that cannot be imported is left out. Every pipeline runs in a
process of its own, pinned to one core, and in another one with all cores. Blocks of a few seconds alternate, so that a
machine that slows down does so for all; the others sleep meanwhile. A block starts with batches that are thrown away:
those made while the others had their turn.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

from input_loaders import LOADERS

PACKAGES = {
  'vitjax': ('numpy', 'grain', 'simplejpeg', 'opencv-python-headless'),
  'tf.data': ('tensorflow', 'tensorflow-cpu'),
  'timm': ('timm', 'torch', 'pillow'),
  'PIL': ('pillow',),
}


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--python', action='append', default=[], metavar='PEER=PATH')
  parser.add_argument('--only', default='', help='comma-separated starts of names')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--seconds', type=float, default=2.5, help='per block')
  parser.add_argument('--batch', type=int, default=64)
  parser.add_argument('--num_files', type=int, default=512)
  parser.add_argument('--out', default=None, help='Markdown file to write')
  parser.add_argument('--worker', nargs=3, default=None, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.worker:
    return serve(args.worker[0], args.worker[1], args.batch, int(args.worker[2]))
  from vitjax.bench.photos import write_photos

  pythons = dict(entry.split('=', 1) for entry in args.python)
  names = [name for name in LOADERS if name.startswith(tuple(args.only.split(',')))]
  with tempfile.TemporaryDirectory() as folder:
    files = write_photos(pathlib.Path(folder), args.num_files)
    mean_bytes = statistics.mean(path.stat().st_size for path in files)
    workers = start_all(names, pythons, folder, args.batch)
    try:
      rates = measure(workers, args.rounds, args.seconds)
    finally:
      for worker in workers.values():
        worker.stop()
  text = table(rates, {key: worker.versions for key, worker in workers.items()}, mean_bytes, args)
  print(text)
  if args.out:
    pathlib.Path(args.out).write_text(text, encoding='utf-8')
  return 0


class Worker:
  """One pipeline in a process of its own, on some cores."""

  def __init__(self, python, name, folder, batch, cores):
    command = [python, __file__, '--batch', str(batch), '--worker', name, folder, str(len(cores))]
    self.process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3', 'CUDA_VISIBLE_DEVICES': '', 'JAX_PLATFORMS': 'cpu'},
      preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    self.versions = self.ask('start')

  def ask(self, line):
    self.process.stdin.write(line + '\n')
    self.process.stdin.flush()
    answer = self.process.stdout.readline()
    return json.loads(answer) if answer else None

  def stop(self):
    if self.process.poll() is None:
      self.process.kill()
    self.process.communicate()


def start_all(names, pythons, folder, batch):
  """Starts every pipeline on one core and on all; returns {(name, number of cores): worker} of those that came up."""
  all_cores, workers = sorted(os.sched_getaffinity(0)), {}
  for name in names:
    peer = {'tf.data': 'tensorflow', 'timm': 'timm'}
    key = next((peer[start] for start in peer if name.startswith(start)), None)
    python = pythons[key] if key in pythons else sys.executable
    for cores in dict.fromkeys([tuple(all_cores[-1:]), tuple(all_cores)]):
      worker = Worker(python, name, folder, batch, cores)
      if worker.versions is None:
        worker.process.kill()
        reason = worker.process.communicate()[1].strip().splitlines()[-1:]
        print(f'left out: {name}: {"".join(reason)}', file=sys.stderr)
        break
      workers[name, len(cores)] = worker
  return workers


def measure(workers, rounds, seconds):
  """Returns {(name, cores): [images/s of each round]}."""
  rates = {key: [] for key in workers}
  for i in range(rounds):
    order = list(workers) if i % 2 == 0 else list(workers)[::-1]
    for key in order:
      rates[key].append(workers[key].ask(f'run {seconds}')['images_per_s'])
  return rates


def serve(name, folder, batch, cores):
  """Runs in a worker: answers 'start' with versions, 'run S' with the rate over S seconds."""
  batches = iter(LOADERS[name](folder, batch, cores))
  for line in sys.stdin:
    command, *values = line.split()
    if command == 'start':
      for _ in range(3):
        next(batches)
      answer = {
        package: version(package) for key in PACKAGES if name.startswith(key) for package in PACKAGES[key]
      }
    else:
      drained = time.perf_counter() + 0.5
      while time.perf_counter() < drained:
        next(batches)
      count, start = 0, time.perf_counter()
      while time.perf_counter() - start < float(values[0]):
        count += len(next(batches))
      answer = {'images_per_s': count / (time.perf_counter() - start)}
    print(json.dumps(answer), flush=True)
  return 0


def version(package):
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def table(rates, versions, mean_bytes, args):
  num_cores = max(cores for _, cores in rates)
  medians = {key: statistics.median(values) for key, values in rates.items()}
  base = medians['tf.data, fused crop', 1] if ('tf.data, fused crop', 1) in medians else None
  lines = [
    f'| | images/s, 1 core | spread | of tf.data | images/s, {num_cores} cores | of {num_cores} x 1 core |',
    '|---|---|---|---|---|---|',
  ]
  for name in dict.fromkeys(name for name, _ in rates):
    one, values = medians[name, 1], rates[name, 1]
    relative = '' if base is None else f'{one / base:.2f}'
    many = medians[name, num_cores]
    lines.append(
      f'| {name} | {one:,.0f} | {min(values):,.0f} to {max(values):,.0f} | {relative} | {many:,.0f} | '
      f'{many / (num_cores * one):.0%} |'
    )
  used = sorted({f'{package} {v}' for found in versions.values() for package, v in found.items() if v})
  lines += [
    '',
    f'Median of {args.rounds} alternating blocks of {args.seconds:g} s; batches of {args.batch}; {args.num_files} JPEG '
    f'files of 500 x 375 pixels, {mean_bytes / 1000:.0f} kB on average, in the page cache; crops of 5 to 100 % of the '
    'area. Rates by the clock, on a machine with nothing else to do.',
    f'{time.strftime("%Y-%m-%d")}, {processor()}, {num_cores} cores, Python {platform.python_version()}; '
    f'{", ".join(used)}.',
  ]
  return '\n'.join(lines) + '\n'


def processor():
  info = pathlib.Path('/proc/cpuinfo')
  lines = info.read_text().splitlines() if info.exists() else []
  found = (line.split(':')[1].strip() for line in lines if line.startswith('model name'))
  return next(found, platform.machine())


if __name__ == '__main__':
  sys.exit(main())
