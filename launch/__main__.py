"""`python -m launch ENGINE ...`: renders a job for an engine, and submits it with --submit."""

from __future__ import annotations

import sys

from launch.cli import main

sys.exit(main())
