"""Anyone's images: which knobs follow from them, what is wrong with them, and where a trained model errs.

`fit_recipe` is what configs/transfer.py calls; of own_images.report `look` comes before the first step and
`write_report` after the last.
"""

from vitjax.own_images.derive import Asked, fit_recipe

__all__ = ['Asked', 'fit_recipe']
