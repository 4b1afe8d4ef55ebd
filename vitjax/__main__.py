"""`python -m vitjax` is the `vitjax` command."""

from vitjax.cli.main import program

if __name__ == '__main__':
  program()
