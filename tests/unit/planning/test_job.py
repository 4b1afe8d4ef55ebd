"""Whole plans on virtual devices: reports, refusals with the knobs that help, sweeps."""

import dataclasses
import re

import jax
import pytest
from tiny import tiny_recipe

from vitjax.cli.main import main
from vitjax.parallel.hardware import HARDWARE
from vitjax.planning import sweep as sweep_module
from vitjax.planning.compiling import DoesNotFit, _explained, compile_step
from vitjax.planning.job import compile_job, estimate_job, meshes, pareto, what_helps
from vitjax.planning.report import Assumptions, comparison, report
from vitjax.planning.scaling import smaller_topologies
from vitjax.planning.topology import PlanError, Topology

ROOMY = dataclasses.replace(HARDWARE['h100'], hbm_bytes=2**33)


def recipe(**edits):
  return tiny_recipe(
    evals={}, **{'data__batch_size': 64, 'model__depth': 1, 'model__layers': 'scan', **edits}
  )


@pytest.fixture(scope='module')
def compiled():
  averaging = recipe(parallel__fsdp=4, optim__ema_decay=0.999)
  return compile_job(estimate_job(averaging, jax.devices(), ROOMY))


def test_the_page_says_everything(compiled):
  text = report(compiled, Topology.parse('cpu:8'), 'a note', Assumptions(2.5, 0.4, 1e9))
  for part in (
    'data 2 x fsdp 4', 'a note', 'parameters', 'optimiser', 'activations saved', 'arguments', 'temporaries',
    'all-gather', 'roofline', 'MFU at most', 'images/s', 'checkpoint', 'at 40% MFU', 'device hours at 2.5',
  ):  # fmt: skip
    assert part in text, part
  assert max(map(len, text.splitlines())) < 140


def test_the_step_is_that_of_training_and_its_parameters_are_gathered_over_fsdp(compiled):
  assert compiled.fits
  assert {('all-gather', ('fsdp',))} <= {(c.kind, c.axes) for c in compiled.compiled.collectives}


def test_arguments_are_what_the_compiler_counts(compiled):
  slack = 64  # step count and random key
  assert compiled.memory.arguments == pytest.approx(compiled.compiled.arguments, abs=slack)


def test_the_compilers_figure_decides_what_fits(compiled):
  small = dataclasses.replace(ROOMY, hbm_bytes=compiled.compiled.total - 1)
  with pytest.raises(DoesNotFit) as refused:
    compile_step(compiled.run, small)
  assert refused.value.needed == compiled.compiled.total
  assert refused.value.limit == small.hbm_bytes


def test_the_tpu_compilers_words_are_understood():
  words = (
    'RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO '
    'temporaries (29.17G) exceeds available HBM (15.75G). HLO module: jit_train_step.'
  )
  error = _explained(RuntimeError(words))
  assert isinstance(error, DoesNotFit)
  assert (round(error.needed / 2**30, 2), round(error.limit / 2**30, 2)) == (29.17, 15.75)
  other = _explained(RuntimeError('INTERNAL: something else\nmore'))
  assert type(other) is PlanError
  assert 'INTERNAL: something else' in str(other)


def test_a_refusal_names_the_mildest_setting_of_each_knob_that_helps():
  job = estimate_job(recipe(data__batch_size=32), jax.devices(), ROOMY)
  tight = dataclasses.replace(job, hardware=dataclasses.replace(ROOMY, hbm_bytes=int(job.memory.total * 0.8)))
  helps = what_helps(tight)
  knobs = [change.partition('=')[0] for change, _ in helps]
  assert 'model.remat' in knobs
  assert 'data.batch_size' in knobs
  assert all(total <= tight.hardware.hbm_bytes for _, total in helps)
  assert len(
    {change.partition(' ')[0].partition('=')[0] + str(' with ' in change) for change, _ in helps}
  ) == len(helps)
  hopeless = dataclasses.replace(job, hardware=dataclasses.replace(ROOMY, hbm_bytes=1000))
  assert what_helps(hopeless) == []


def test_meshes_divide_the_devices_and_the_slices():
  found = meshes(32, num_slices=2)
  assert all(d * f * m == 32 and d % 2 == 0 for d, f, m in found)
  assert {(32, 1, 1), (2, 16, 1), (2, 2, 8)} <= set(found)
  assert len(set(found)) == len(found)
  assert meshes(1, num_slices=1) == [(1, 1, 1)]


def test_halvings_down_to_eight_devices():
  names = [part.text for part in smaller_topologies(Topology.parse('2xv5e:16x16'))]
  assert names == ['v5e:2x4', 'v5e:4x4', 'v5e:4x8', 'v5e:8x8', 'v5e:8x16', 'v5e:16x16', '2xv5e:16x16']
  assert [part.num_devices for part in smaller_topologies(Topology.parse('h100:8x4'))] == [8, 16, 32]
  assert [part.num_devices for part in smaller_topologies(Topology.parse('v5p:8x8x8'))] == [
    8,
    16,
    32,
    64,
    128,
    256,
    512,
  ]


def test_a_sweep_draws_the_front_and_compiles_the_best(monkeypatch, compiled):
  monkeypatch.setattr(sweep_module, 'meshes', lambda *args: [(8, 1, 1), (1, 8, 1)])
  monkeypatch.setattr(
    sweep_module, 'compile_job', lambda job: dataclasses.replace(job, compiled=compiled.compiled)
  )
  lines = []
  topology = Topology.parse('cpu:8')
  monkeypatch.setattr(Topology, 'hardware', ROOMY)
  jobs, best = sweep_module.sweep(recipe(), topology, jax.devices(), compile_best=1, progress=lines.append)
  assert len(jobs) == 6
  assert sum(job.compiled is not None for job in jobs) == 1
  assert lines[0] == 'estimated 6 settings'
  assert lines[1].startswith('compiled ')
  seconds = [job.bounds.exposed_step_s for job in best]
  sizes = [job.memory_bytes for job in best]
  assert seconds == sorted(seconds)
  assert sizes == sorted(sizes, reverse=True)
  text = comparison(jobs, best)
  assert text.count('*') == len(best)
  assert max(map(len, text.splitlines())) <= 100
  assert pareto([dataclasses.replace(job, refusal=DoesNotFit(2, 1)) for job in jobs]) == []


def test_the_command_on_virtual_devices(capsys):
  flags = ['--config=configs/pretrain.py:smoke', '--topology=cpu:8', '--estimate']
  assert main(['plan', *flags]) == 0
  out = capsys.readouterr().out
  assert re.search(r'devices +cpu:8: 8 x cpu', out)
  assert 'stand-in' in out
  assert main(['plan', *flags, '--sweep_mesh', '--mfu=1.5', '--price_per_hour=-1']) == 2
  err = capsys.readouterr().err
  assert all(flag in err for flag in ('--mfu', '--price_per_hour', '--topology'))
