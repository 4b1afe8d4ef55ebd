"""Recipe files, their arguments, and overrides from the command line."""

import pathlib

import pytest

from vitjax.config import (
  default_config,
  evaluator,
  evaluators,
  load_config,
  parse_args,
  parse_recipe,
  source_config,
)
from vitjax.config.knobs import known_paths
from vitjax.config.load import ConfigDict
from vitjax.config.suggest import SYNONYMS
from vitjax.errors import ConfigError

RECIPE = str(pathlib.Path(__file__).parent / 'recipes' / 'pretrain.py')


def load_text(tmp_path, text, arg=''):
  """Loads a recipe file with this text in the body of get_config, which begins at line 4."""
  path = tmp_path / 'recipe.py'
  indented = '\n'.join(f'  {line}' for line in text.splitlines())
  head = 'from vitjax.config import *\ndef get_config(arg=""):\n  config = default_config()\n'
  path.write_text(f'{head}{indented}\n')
  return load_config(f'{path}:{arg}' if arg else str(path))


def test_a_recipe_file_gives_a_recipe():
  recipe = parse_recipe(load_config(RECIPE), num_devices=8)
  assert recipe.data.image_size == (32, 32)
  assert recipe.evals['val'].source.split == 'test'
  assert recipe.evals['train'].source == recipe.data.source
  assert recipe.evals['val'].resize_short == 64
  assert recipe.evals['train'].resize_short is None


def test_arguments_reach_the_file():
  config = load_config(f'{RECIPE}:variant=Ti/16,lr=3e-4,smoke,loss=sigmoid')
  assert config.model.variant == 'Ti/16'
  assert config.optim.peak_lr == 3e-4
  assert config.total == '20 steps'
  assert config.objective.loss == 'sigmoid'


def test_an_unknown_argument_is_named_with_the_file():
  message = r"pretrain\.py:\d+: Arguments[^\n]*\n  - stepz = 5.*Did you mean 'steps'\?"
  with pytest.raises(ConfigError, match=message):
    load_config(f'{RECIPE}:stepz=5')


@pytest.mark.parametrize(
  ('arg', 'problem'),
  [
    ('steps=5.5', "steps = '5.5'"),
    ('steps', 'A bare name stands for True'),
    ('lr=fast', "lr = 'fast'"),
    ('smoke=1', 'Write True'),
    ('loss=sigmod', "Did you mean 'sigmoid'"),
    ('lr=1,lr=2', 'each argument once'),
  ],
)
def test_wrong_arguments(arg, problem):
  with pytest.raises(ConfigError) as caught:
    load_config(f'{RECIPE}:{arg}')
  assert problem in str(caught.value)


def test_parse_args_types_and_defaults():
  arg = 'lr=1,flag,name=a=b, n = 1_000 '
  args = parse_args(arg, lr=1e-3, flag=False, name='x', n=1, rest=2, which=('p', 'q'))
  assert vars(args) == {'lr': 1.0, 'flag': True, 'name': 'a=b', 'n': 1000, 'rest': 2, 'which': 'p'}
  assert isinstance(args.lr, float)
  with pytest.raises(ConfigError) as caught:
    parse_args('a=1,b=2', c=3)
  assert [p.where for p in caught.value.problems] == ['a', 'b']


def test_a_missing_file_suggests_its_neighbour():
  with pytest.raises(ConfigError, match=r'Did you mean .*recipes/pretrain\.py\?'):
    load_config(RECIPE.replace('pretrain.py', 'pretrian.py'))
  with pytest.raises(ConfigError, match=r'Did you mean .*recipes/pretrain\.py\?'):
    load_config(RECIPE.removesuffix('.py'))


def test_a_missing_file_is_looked_for_in_configs(tmp_path, monkeypatch):
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'vit_i21k.py').write_text('')
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ConfigError, match=r'Did you mean configs/vit_i21k\.py\?'):
    load_config('vit_i21k.py')
  with pytest.raises(ConfigError, match=r'There are configs/vit_i21k\.py'):
    load_config('configs/zzz.py:lr=1')


@pytest.mark.parametrize(
  ('text', 'where', 'hint'),
  [
    ('config.optim.peek_lr = 3e-3\nreturn config', 'optim.peek_lr', 'Did you mean optim.peak_lr?'),
    ('config.optim["peek_lr"] = 3e-3\nreturn config', 'optim.peek_lr', 'Did you mean optim.peak_lr?'),
    ('config.batch_size = 8\nreturn config', 'batch_size', 'Did you mean data.batch_size?'),
    ('config.total = config.epochs', 'epochs', 'Did you mean total?'),
    ('config.zzzzqq = 3', 'zzzzqq', 'The recipe holds seed, total, stop_after'),
    ('config.optim.zzzzqq = 3', 'optim.zzzzqq', 'optim holds name, peak_lr'),
    ('config.data.source.spilt = "all"', 'data.source.spilt', 'Did you mean data.source.split?'),
    ('config.evals = evaluators(val=evaluator())\nconfig.evals.val.evry = 3', 'evals.<name>.evry', '.every?'),
    ('config.evals = evaluators(val=evaluator())\nconfig.evals.vall.every = 3', 'vall', "'val'"),
  ],
)
def test_an_unknown_knob_in_a_file(tmp_path, text, where, hint):
  with pytest.raises(ConfigError) as caught:
    load_text(tmp_path, text)
  line = 4 + text.split('\nreturn')[0].count('\n')
  assert caught.value.headline == f'{tmp_path}/recipe.py:{line}: unknown knob.'
  (problem,) = caught.value.problems
  assert problem.where == where
  assert hint in problem.hint


def test_synonyms_are_knobs():
  paths = known_paths()
  assert set(SYNONYMS.values()) <= set(paths)
  assert not set(SYNONYMS) & set(paths)


def test_a_python_error_names_file_line_and_source(tmp_path):
  with pytest.raises(ConfigError) as caught:
    load_text(tmp_path, 'x = 1\ny = x / 0')
  assert caught.value.headline == f'{tmp_path}/recipe.py:5: ZeroDivisionError: division by zero'
  assert caught.value.problems[0].where == 'y = x / 0'
  assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_syntax_error_names_file_and_line(tmp_path):
  with pytest.raises(ConfigError, match=r'recipe\.py:4: .*\n  - x = \(1'):
    load_text(tmp_path, 'x = (1\nreturn config')


def test_helper_errors_name_the_line(tmp_path):
  message = r"recipe\.py:4: evaluator\(\)[^\n]*\n  - evry = 1.*Did you mean 'every'"
  with pytest.raises(ConfigError, match=message):
    load_text(tmp_path, 'config.evals.val = evaluator(evry=1)')


@pytest.mark.parametrize(
  ('content', 'part'),
  [
    ('x = 1', 'no function get_config'),
    ('def get_config(): return 3', 'returned int'),
    ('raise SystemError("boom")', ':1: SystemError: boom'),
  ],
)
def test_files_that_are_no_recipes(tmp_path, content, part):
  path = tmp_path / 'bad.py'
  path.write_text(content)
  with pytest.raises(ConfigError) as caught:
    load_config(str(path))
  assert part in str(caught.value)


def test_an_argument_for_a_file_that_takes_none(tmp_path):
  path = tmp_path / 'plain.py'
  path.write_text('from vitjax.config import default_config\ndef get_config(): return default_config()')
  assert load_config(str(path)).total == '90 epochs'
  with pytest.raises(ConfigError, match='takes no argument'):
    load_config(f'{path}:smoke')


def test_loading_leaves_no_bytecode_behind(tmp_path):
  load_text(tmp_path, 'return config')
  assert [p.name for p in tmp_path.iterdir()] == ['recipe.py']


def test_shared_groups_are_refused_and_copies_accepted(tmp_path):
  shared = 'config.evals.val = evaluator()\nconfig.evals.val.source = config.data.source\nreturn config'
  message = r'evals\.val\.source = config\.data\.source.*source_config\(config\.data\.source\)'
  with pytest.raises(ConfigError, match=message):
    load_text(tmp_path, shared)
  copied = shared.replace('= config.data.source', '= source_config(config.data.source, split="test")')
  config = load_text(tmp_path, copied)
  assert (config.data.source.split, config.evals.val.source.split) == ('train', 'test')


def test_default_config_is_locked_but_for_evaluators():
  config = default_config()
  with pytest.raises(AttributeError):
    config.optim.peek_lr = 1.0
  config.evals = evaluators(
    val=evaluator(every='2 epochs'), test=evaluator(source=source_config(kind='digits'))
  )
  config.evals.val.every = '10 steps'
  config.evals.extra = evaluator()
  with pytest.raises(AttributeError):
    config.evals.val.evry = '10 steps'
  recipe = parse_recipe(config)
  assert set(recipe.evals) == {'val', 'test', 'extra'}
  assert str(recipe.evals['val'].every) == '10 steps'
  assert recipe.evals['test'].source.kind == 'digits'


def test_evaluator_copies_its_source():
  config = default_config()
  first = evaluator(source=config.data.source)
  first.source.path = '/x'
  assert config.data.source.path is None
  assert evaluators(a=first, b=first).a is not first


# (path, text, value that ends up in the recipe)
OVERRIDES = [
  ('optim.peak_lr', '1e-3', 1e-3),
  ('optim.peak_lr', '1', 1.0),
  ('optim.clip_norm', 'None', None),
  ('optim.clip_norm', '0.5', 0.5),
  ('optim.ema_decay', '0.999', 0.999),
  ('data.image_size', '64', (64, 64)),
  ('data.image_size', '(64, 48)', (64, 48)),
  ('data.image_size', '64,48', (64, 48)),
  ('data.image_size', '[64, 48]', (64, 48)),
  ('data.crop_area', '(0.1, 1)', (0.1, 1.0)),
  ('data.flip', 'False', False),
  ('data.flip', 'true', True),
  ('data.batch_size', '1_024', 1024),
  ('model.variant', 'Ti/16', 'Ti/16'),
  ('model.variant', '"Ti/16"', 'Ti/16'),
  ('model.num_classes', '12', 12),
  ('model.qk_norm', 'True', True),
  ('optim.freeze', "('cls', 'head/.*')", ('cls', 'head/.*')),
  ('optim.freeze', '()', ()),
  ('parallel.rules', "(('head/kernel', 'fsdp'),)", (('head/kernel', 'fsdp'),)),
  ('data.source.examples_per_class', '5', 5),
  ('evals.val.batch_size', '128', 128),
  ('evals.val.resize_short', 'None', None),
]


@pytest.mark.parametrize(('path', 'text', 'value'), OVERRIDES)
def test_overrides_are_read_by_the_type_of_the_knob(path, text, value):
  recipe = parse_recipe(load_config(RECIPE, [('evals.val.resize_short', 'None'), (path, text)]))
  node = recipe
  for name in path.split('.'):
    node = node[name] if isinstance(node, dict) else getattr(node, name)
  assert node == value
  assert type(node) is type(value)


@pytest.mark.parametrize('text', ['5 epochs', "'5 epochs'", '5epochs'])
def test_duration_overrides(text):
  config = load_config(RECIPE, [('total', text), ('stop_after', text), ('optim.warmup', '1e1 examples')])
  assert (config.total, config.stop_after, config.optim.warmup) == ('5 epochs', '5 epochs', '10 examples')


# (path, text, a part of the problem)
WRONG_OVERRIDES = [
  ('optim.peek_lr', '1', 'Did you mean optim.peak_lr?'),
  ('peak_lr', '1', 'Did you mean optim.peak_lr?'),
  ('optimizer.peak_lr', '1', 'Did you mean optim.peak_lr?'),
  ('config.optim.peak_lr', '1', 'Did you mean optim.peak_lr?'),
  ('optim.peak_lr.x', '1', 'Did you mean optim.peak_lr?'),
  ('evals.vall.every', '1 epochs', 'Did you mean evals.val.every?'),
  ('evals.val.evry', '1 epochs', 'Did you mean evals.val.every?'),
  ('', '1', 'dotted path'),
  ('optim', '1', 'Set one of optim.name'),
  ('evals', '1', 'evals.val.kind'),
  ('data.batch_size', '1e3', 'Write 1000'),
  ('data.batch_size', 'many', 'an integer >= 1 (examples)'),
  ('data.batch_size', 'True', 'Its type is bool'),
  ('data.batch_size', 'None', "data.batch_size = 'None'"),
  ('optim.peak_lr', 'nan', 'NaN and infinity'),
  ('optim.peak_lr', 'True', 'a number'),
  ('data.flip', '1', 'Write True'),
  ('data.crop_area', '2', 'write (2, 2)'),
  ('data.image_size', '(1, 2, 3)', '3 given'),
  ('data.image_size', '2.5', 'two integers'),
  ('optim.freeze', 'head/.*', "Quote the elements: ('head/.*',)"),
  ('optim.freeze', '"head/.*"', "Write ('head/.*',)"),
  ('total', '90', "'90 epochs'"),
  ('model.variant', '"B/16', 'variant'),
  ('data.image_size', '__import__("os").getcwd()', 'two integers'),
]


@pytest.mark.parametrize(('path', 'text', 'part'), WRONG_OVERRIDES)
def test_wrong_overrides(path, text, part):
  if path == 'model.variant':  # a text is a text; what it means is parse_recipe's question
    with pytest.raises(ConfigError, match=part):
      parse_recipe(load_config(RECIPE, [(path, text)]))
    return
  with pytest.raises(ConfigError) as caught:
    load_config(RECIPE, [(path, text)])
  (problem,) = caught.value.problems
  assert problem.where == path
  assert part in str(problem)


def test_all_wrong_overrides_are_reported_at_once():
  wrong = [(path, text) for path, text, _ in WRONG_OVERRIDES if path != 'model.variant']
  with pytest.raises(ConfigError) as caught:
    load_config(RECIPE, [('optim.peak_lr', '0.5'), *wrong])
  assert [p.where for p in caught.value.problems] == [path for path, _ in wrong]


def test_a_config_that_the_file_built_by_hand_is_refused_in_full():
  with pytest.raises(ConfigError) as caught:
    parse_recipe(ConfigDict({'lr': 1e-3}))
  text = str(caught.value)
  assert 'config = without model, data' in text
  assert 'optim.peak_lr' in text
