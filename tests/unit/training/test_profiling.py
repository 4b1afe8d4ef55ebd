"""Traces: time is shared out without loss, operations find their component, and the command prints tables."""

import pytest
import tiny

from vitjax.cli.train import parse_window
from vitjax.errors import ConfigError, DataError
from vitjax.training import build, train
from vitjax.training.profiling import COMPONENTS, REST, StepProfile, component_of
from vitjax.training.trace import Event, OpTimes, op_names, read_op_times, share_time


def test_operations_that_run_at_once_share_the_time():
  events = [Event('a', 0, 0, 4e9), Event('b', 1, 2e9, 6e9)]
  assert share_time(events) == pytest.approx({'a': 3.0, 'b': 3.0})


def test_a_loop_leaves_the_time_to_its_body():
  events = [Event('while', 0, 0, 10e9), Event('dot', 0, 1e9, 4e9), Event('add', 0, 5e9, 9e9)]
  assert share_time(events) == pytest.approx({'while': 3.0, 'dot': 3.0, 'add': 4.0})


def test_gaps_belong_to_nobody():
  assert share_time([Event('a', 0, 0, 1e9), Event('a', 0, 5e9, 6e9)]) == pytest.approx({'a': 2.0})


def test_names_come_from_the_compiled_text():
  text = """HloModule jit_f, entry_computation_layout={(f32[2]{0})->f32[2]{0}}

%fused (p0: f32[2]) -> f32[2] {
  %dot.9 = f32[2]{0} dot(%p0, %p0), metadata={op_name="jit(f)/MlpBlock_0/dot_general"}
  ROOT %add.9 = f32[2]{0} add(%dot.9, %p0), metadata={op_name="jit(f)/add"}
}

ENTRY %main (a: f32[2]) -> f32[2] {
  %dot.1 = f32[2]{0} dot(%a, %a), metadata={op_type="dot" op_name="jit(f)/query/dot_general" line=3}
  %copy.2 = f32[2]{0} copy(%a)
  fusion.4 = f32[2]{0} fusion(%a), kind=kCustom, calls=%fused
  ROOT fusion.3 = f32[2]{0} fusion(%a), kind=kLoop, calls=%fused, metadata={op_name="jit(f)/optimizer/mul"}
}"""
  names = op_names(text)
  assert names['dot.1'] == 'jit(f)/query/dot_general'
  assert names['fusion.4'] == 'jit(f)/MlpBlock_0/dot_general'
  assert names['fusion.3'] == 'jit(f)/optimizer/mul'
  assert 'copy.2' not in names


_BLOCK = 'jit(train_step)/transpose(jvp(VisionTransformer))/Transformer/Transformer._loop/encoderblock_1'


@pytest.mark.parametrize(
  ('name', 'component'),
  [
    (f'{_BLOCK}/encoderblock_1._attention/MultiHeadDotProductAttention_0/query/dot_general', 'attention'),
    (f'{_BLOCK}/encoderblock_1._mlp/MlpBlock_0/Dense_1/dot_general', 'MLP'),
    (f'{_BLOCK}/LayerNorm_0/rsqrt', 'norms and residuals'),
    ('jit(train_step)/jvp(VisionTransformer)/VisionTransformer._patches/embedding/conv', 'embedding'),
    ('jit(train_step)/jvp(VisionTransformer)/Transformer/posembed_input/add', 'embedding'),
    ('jit(train_step)/jvp(VisionTransformer)/head/dot_general', 'head'),
    ('jit(train_step)/jvp(VisionTransformer)/MAPHead_0/MlpBlock_0/Dense_0/dot_general', 'head'),
    ('jit(train_step)/jvp()/reduce_sum', 'head'),
    ('jit(train_step)/optimizer/mul', 'optimiser'),
    ('jit(train_step)/metrics/reduce_sum', 'metrics'),
    ('jit(train_step)/augment/sub', 'pixels'),
    ('state.opt_state[0].mu', 'optimiser'),
    (None, REST),
    ('copy', REST),
  ],
)
def test_component(name, component):
  assert component_of('fusion.1', name) == component
  assert component_of('all-reduce.7', name) == 'collectives'


def test_components_sum_to_the_step():
  times = OpTimes({'dot': 0.5, 'unknown': 0.1}, {'dot': 4, 'unknown': 2}, 0.6, 1)
  profile = StepProfile(times, {'dot': 'jit(f)/MlpBlock_0/dot_general'}, num_steps=2, wall_s=1.0)
  assert profile.components() == pytest.approx({'MLP': 0.25, REST: 0.25})
  assert '50.0%' in str(profile)


def test_profile_of_a_run(tmp_path, caplog):
  with caplog.at_level('INFO', logger='vitjax'):
    train(build(tiny.tiny_recipe(stop_after='4 steps')), tmp_path, profile=(3, 4))
  times = read_op_times(tmp_path / 'profile', 'jit_train_step')
  assert times.num_devices == 8
  text = '\n'.join(record.message for record in caplog.records)
  assert 'steps 3 to 4, traced in' in text
  for component in ('collectives', 'attention', 'MLP', 'rest'):
    assert component in text
  with pytest.raises(DataError, match='operations of jit_nothing'):
    read_op_times(tmp_path / 'profile', 'jit_nothing')
  with caplog.at_level('INFO', logger='vitjax'):
    train(build(tiny.tiny_recipe(stop_after='5 steps')), tmp_path, profile=(3, 4))
  assert 'are not traced' in caplog.text


def test_windows():
  assert parse_window('10:13') == (10, 13)
  for text in ('10', '13:10', '0:3', 'a:b', '-1:3'):
    with pytest.raises(ConfigError, match='such as 10:13'):
      parse_window(text)


def test_components_have_distinct_names():
  assert len(set(COMPONENTS)) == len(COMPONENTS)
