"""Learning-rate schedules, optimisers built from optax, and averaged weights."""

from __future__ import annotations

from vitjax.optim.ema import ema_init, ema_update
from vitjax.optim.factory import make_optimizer
from vitjax.optim.layer_decay import layer_multipliers
from vitjax.optim.schedules import make_schedule

__all__ = ['ema_init', 'ema_update', 'layer_multipliers', 'make_optimizer', 'make_schedule']
