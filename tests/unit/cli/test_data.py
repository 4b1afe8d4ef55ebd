"""vitjax data lists every source that the recipe reads, evaluators' training images too."""

import textwrap

from vitjax.cli.main import main


def test_sources_of_frozen_feature_evaluators_are_listed(tmp_path, capsys):
  recipe = tmp_path / 'recipe.py'
  recipe.write_text(
    textwrap.dedent("""
      from vitjax.config import default_config, evaluator, evaluators, source_config

      def get_config():
        config = default_config()
        config.data.image_size, config.data.batch_size = 32, 8
        config.model.patch_size = 16
        digits = source_config(kind='digits', split='train[:100]')
        test = source_config(kind='digits', split='test[:50]')
        config.evals = evaluators(neighbours=evaluator(kind='knn', train_source=digits, source=test))
        return config
    """)
  )
  assert main(['data', f'--config={recipe}', f'--out={tmp_path / "sheet.png"}']) == 0
  printed = capsys.readouterr().out
  assert 'data.source: 4,000 examples of 10 classes' in printed
  assert 'evals.neighbours.source: 50 examples of 10 classes (digits, test[:50])' in printed
  assert 'evals.neighbours.train_source: 100 examples of 10 classes (digits, train[:100])' in printed
  assert (tmp_path / 'sheet.png').is_file()
