"""Pure functions on arrays: positions, mixup, normalisation."""
