"""`python -m vitjax` is the `vitjax` command."""

import sys

from vitjax.cli.main import main

if __name__ == '__main__':
  sys.exit(main())
