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
  """Returns {(name, cores): [answer of each round]}."""
  rates = {key: [] for key in workers}
  for i in range(rounds):
    order = list(workers) if i % 2 == 0 else list(workers)[::-1]
    for key in order:
      rates[key].append(workers[key].ask(f'run {seconds}'))
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
      count, start, cpu = 0, time.perf_counter(), cpu_seconds()
      while time.perf_counter() - start < float(values[0]):
        count += len(next(batches))
      clock, cpu = time.perf_counter() - start, cpu_seconds() - cpu
      answer = {'images_per_s': count / clock, 'images_per_cpu_s': count / cpu}
    print(json.dumps(answer), flush=True)
  return 0


def cpu_seconds():
  """Returns the CPU time of this process and of its running worker processes."""
  ticks = 0
  for task in pathlib.Path('/proc/self/task').iterdir():
    for child in (task / 'children').read_text().split():
      ticks += sum(
        int(field) for field in pathlib.Path('/proc', child, 'stat').read_text().rsplit(')')[1].split()[11:13]
      )
  return time.process_time() + ticks / os.sysconf('SC_CLK_TCK')


def version(package):
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def table(rates, versions, mean_bytes, args):
  num_cores = max(cores for _, cores in rates)

  def median(key, what='images_per_s'):
    return statistics.median(answer[what] for answer in rates[key])

  base = ('tf.data, fused crop', 1)
  lines = [
    f'| | images/s, 1 core | spread | of tf.data | by CPU seconds | of tf.data | images/s, {num_cores} cores | '
    f'of {num_cores} x 1 core |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for name in dict.fromkeys(name for name, _ in rates):
    values = [answer['images_per_s'] for answer in rates[name, 1]]
    cells = [name, f'{median((name, 1)):,.0f}', f'{min(values):,.0f} to {max(values):,.0f}']
    for what in ('images_per_s', 'images_per_cpu_s'):
      if what == 'images_per_cpu_s':
        cells.append(f'{median((name, 1), what):,.0f}')
      cells.append(f'{median((name, 1), what) / median(base, what):.2f}' if base in rates else '')
    many = median((name, num_cores))
    cells += [f'{many:,.0f}', f'{many / (num_cores * median((name, 1))):.0%}']
    lines.append(f'| {" | ".join(cells)} |')
  used = sorted({f'{package} {v}' for found in versions.values() for package, v in found.items() if v})
  lines += [
    '',
    f'Median of {args.rounds} alternating blocks of {args.seconds:g} s; batches of {args.batch}; {args.num_files} JPEG '
    f'files of 500 x 375 pixels, {mean_bytes / 1000:.0f} kB on average, in the page cache; crops of 5 to 100 % of the '
    'area. By CPU seconds: images per second of one core, which other programs on the machine disturb less.',
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
