#!/usr/bin/env python3
"""Times a training step of vitjax and of other implementations side by side, in interleaved blocks.

Each implementation lives in a process of its own, since PyTorch and JAX want different environments. All of them are
brought up first; then they take turns, a few steps each, so that whatever disturbs the machine disturbs all.
What is timed is the step alone: forward, backward, AdamW; float32, random images that are already in memory. Peers are
imported where they are installed (big_vision: from a local checkout) and never copied.

  python benchmarks/compare.py --model=S/16 --batch=8 --threads=2 --out=benchmarks/results \\
      --jax_python=.venv/bin/python --torch_python=.venv-parity/bin/python --big_vision=../big_vision

Writes OUT/compare-MODEL-tTHREADS.json; a second run with the same name adds its blocks. --pause waits for Enter between
the start of the processes and the timing, so that the machine can be made quiet meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

# A block counts as calm when other processes took less than this share of the machine; with three calm ones only those
# are summed up.
CALM = 0.08
IMPLEMENTATIONS = ('vitjax', 'timm', 'timm-compile', 'transformers', 'big_vision')
HERE = pathlib.Path(__file__).resolve().parent


class Peer:
  """One implementation in its process, spoken to in lines of JSON."""

  def __init__(self, name: str, args: argparse.Namespace):
    python = args.torch_python if name.startswith(('timm', 'transformers')) else args.jax_python
    command = [python, str(HERE / 'peers.py'), name, args.model, str(args.batch), str(args.threads)]
    env = dict(os.environ, JAX_PLATFORMS='cpu', PYTHONPATH=str(HERE.parent))
    env['BIG_VISION'] = args.big_vision or ''
    self.name, self.step_s, self.cpu_s, self.others = name, [], [], []
    self._log = (args.out / f'log-{name}.txt').open('w')
    self._process = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=env
    )

  def read(self) -> dict:
    """Returns the next answer, or {'error': ...} when the process has ended."""
    assert self._process.stdout is not None
    for line in self._process.stdout:
      if line.startswith('{'):
        return json.loads(line)
    return {'error': f'ended; see {self._log.name}'}

  def block(self, steps: int) -> bool:
    """Times a block of steps; returns false when the process has ended meanwhile, as for want of memory."""
    assert self._process.stdin is not None
    busy_s, began_s = _busy_s(), time.perf_counter()
    self._process.stdin.write(f'{steps}\n')
    self._process.stdin.flush()
    answer = self.read()
    if 'error' in answer:
      print(f'{self.name}: {answer["error"]}', flush=True)
      return False
    wall_s = time.perf_counter() - began_s
    self.step_s.append(answer['seconds'] / steps)
    self.cpu_s.append(answer['cpu_s'] / steps)
    self.others.append(max(_busy_s() - busy_s - answer['cpu_s'], 0.0) / wall_s / (os.cpu_count() or 1))
    return True

  def stop(self) -> None:
    """Ends the process."""
    self._process.kill()
    self._process.wait()
    self._log.close()


def _busy_s() -> float:
  """Returns the processor seconds that the whole machine has spent working, or 0 where it does not tell."""
  stat = pathlib.Path('/proc/stat')
  if not stat.exists():
    return 0.0
  fields = [int(x) for x in stat.read_text().splitlines()[0].split()[1:9]]
  return (sum(fields) - fields[3] - fields[4]) / os.sysconf('SC_CLK_TCK')


def summary(row: dict, batch: int) -> dict[str, float]:
  """Returns median, best and worst seconds per step, images/s and processor seconds of a row's calm blocks."""
  calm = [i for i, other in enumerate(row['others']) if other < CALM]
  chosen = calm if len(calm) >= 3 else range(len(row['step_s']))
  step_s, cpu_s = [row['step_s'][i] for i in chosen], [row['cpu_s'][i] for i in chosen]
  median = statistics.median(step_s)
  return {
    'median_s': median,
    'best_s': min(step_s),
    'worst_s': max(step_s),
    'images_per_s': batch / median,
    'cpu_s': statistics.median(cpu_s),
    'blocks': len(step_s),
    'calm': len(calm),
  }


def main() -> None:
  """Brings the peers up, times them in turn, and writes the file."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--model', default='Ti/16', choices=('Ti/16', 'S/16', 'B/16'))
  parser.add_argument('--batch', type=int, default=16)
  parser.add_argument('--threads', type=int, default=2, help='cores that each process may use')
  parser.add_argument('--rounds', type=int, default=8)
  parser.add_argument('--steps', type=int, default=1, help='steps a block')
  parser.add_argument('--only', default=','.join(IMPLEMENTATIONS), help='comma-separated implementations')
  parser.add_argument('--jax_python', default=sys.executable)
  parser.add_argument('--torch_python', default=sys.executable)
  parser.add_argument('--big_vision', help='a checkout of google-research/big_vision; left out without it')
  parser.add_argument('--pause', action='store_true', help='wait for Enter before the timing')
  parser.add_argument('--budget_s', type=float, default=240, help='seconds of timing')
  parser.add_argument('--out', type=pathlib.Path, default=HERE / 'results')
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)
  path = args.out / f'compare-{args.model.replace("/", "")}-t{args.threads}.json'
  rows = json.loads(path.read_text())['rows'] if path.exists() else {}
  peers: list[Peer] = []
  gone: list[Peer] = []
  try:
    for name in args.only.split(','):
      if name == 'big_vision' and not args.big_vision:
        continue
      peers.append(peer := Peer(name, args))
      began_s, answer = time.perf_counter(), peer.read()
      if 'error' in answer:
        print(f'{name}: {answer["error"]}', flush=True)
        peers.remove(peer)
        peer.stop()
        continue
      print(
        f'{name}: ready after {time.perf_counter() - began_s:.0f} s, loss {answer["loss"]:.3f}', flush=True
      )
      rows.setdefault(name, {'step_s': [], 'cpu_s': [], 'others': []})
      rows[name]['versions'] = answer['versions']
    if args.pause:
      print('press Enter to begin', flush=True)
      sys.stdin.readline()
    deadline = time.monotonic() + args.budget_s
    for turn in range(args.rounds):
      for peer in peers[turn % len(peers) :] + peers[: turn % len(peers)]:
        if time.monotonic() < deadline and peer not in gone and not peer.block(args.steps):
          gone.append(peer)
  finally:
    for peer in peers:
      peer.stop()
      for key in ('step_s', 'cpu_s', 'others'):
        rows[peer.name][key] += getattr(peer, key)
  found = {
    'kind': 'compare',
    'model': args.model,
    'batch': args.batch,
    'threads': args.threads,
    'machine': {
      'processor': processor(),
      'cores': os.cpu_count(),
      'system': f'{platform.system()} {platform.machine()}',
    },
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='minutes'),
    'rows': rows,
    'summary': {name: summary(row, args.batch) for name, row in rows.items() if row['step_s']},
  }
  path.write_text(json.dumps(found, indent=1) + '\n')
  for name, s in sorted(found['summary'].items(), key=lambda item: item[1]['median_s']):
    spread = f'{s["best_s"]:.3f} to {s["worst_s"]:.3f}'
    print(
      f'{name:14} {s["images_per_s"]:8.2f} images/s  {s["median_s"]:.3f} s a step ({spread}), '
      f'{s["cpu_s"]:.3f} CPU s, {s["calm"]}/{len(rows[name]["step_s"])} calm'
    )


def processor() -> str:
  """Returns the name of the processor."""
  info = pathlib.Path('/proc/cpuinfo')
  names = info.read_text().split('model name\t: ') if info.exists() else []
  return names[1].partition('\n')[0] if len(names) > 1 else platform.processor()


if __name__ == '__main__':
  main()
