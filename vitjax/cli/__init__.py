"""The `vitjax` command: one thin file per sub-command; see main.py."""
