"""BiT-HyperRule against the table of its paper."""

import pytest

from vitjax.config import default_config, parse_recipe, source_config
from vitjax.config.hyperrule import apply_hyper_rule, hyper_rule
from vitjax.errors import ConfigError

# (examples, side): steps, warm-up, stairs, resize, crop, mixup
TABLE = {
  (1_000, 224): (500, 100, (200, 300, 400), 512, 480, 0.0),
  (19_999, 95): (500, 100, (200, 300, 400), 160, 128, 0.0),
  (20_000, 96): (10_000, 500, (3_000, 6_000, 9_000), 512, 480, 0.1),
  (50_000, 32): (10_000, 500, (3_000, 6_000, 9_000), 160, 128, 0.1),
  (499_999, 400): (10_000, 500, (3_000, 6_000, 9_000), 512, 480, 0.1),
  (500_000, 400): (20_000, 500, (6_000, 12_000, 18_000), 512, 480, 0.1),
  (1_281_167, 400): (20_000, 500, (6_000, 12_000, 18_000), 512, 480, 0.1),
}


@pytest.mark.parametrize('data', TABLE)
def test_rule_is_that_of_the_paper(data):
  rule = hyper_rule(data[0], data[1] ** 2)
  found = (rule.steps, rule.warmup, rule.stairs, rule.resize_size, rule.crop_size, rule.mixup_alpha)
  assert found == TABLE[data]


def test_derivation_says_why_and_fits_a_terminal():
  text = hyper_rule(800, 300 * 300).derivation()
  assert '800 examples, fewer than 20,000' in text
  assert '512, 480' in text
  assert max(map(len, text.splitlines())) <= 100


def test_applied_to_a_recipe_it_parses_and_changes_nothing_else():
  config = default_config()
  config.data.source = source_config(kind='synthetic')
  apply_hyper_rule(config, hyper_rule(50_000, 32 * 32))
  recipe = parse_recipe(config)
  assert str(recipe.total) == '10000 steps'
  assert recipe.data.image_size == (128, 128)
  assert recipe.optim.clip_norm is None
  assert recipe.optim.peak_lr == 0.003
  assert recipe.data.source.kind == 'synthetic'
  assert recipe.model == parse_recipe(default_config()).model


def test_no_images_and_no_pixels_are_both_named():
  with pytest.raises(ConfigError) as error:
    hyper_rule(0, 0)
  assert 'num_examples' in str(error.value)
  assert 'image_area' in str(error.value)
