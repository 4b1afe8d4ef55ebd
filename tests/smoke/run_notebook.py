"""Runs a notebook from a clean kernel, then one cell more, and saves it with all outputs.

python run_notebook.py NOTEBOOK PROBE.py EXECUTED.ipynb WORKDIR
"""

from __future__ import annotations

import pathlib
import sys
import tempfile

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

CELL_LIMIT_S = 500


def main(notebook: str, probe: str, executed: str, workdir: str) -> None:
  content = nbformat.read(notebook, as_version=4)
  content.cells.append(nbformat.v4.new_code_cell(pathlib.Path(probe).read_text(encoding='utf-8')))
  # Sockets as files instead of ports; their names must be short.
  with tempfile.TemporaryDirectory(prefix='nb') as sockets:
    manager = AsyncKernelManager(kernel_name='python3', transport='ipc', ip=f'{sockets}/k')
    resources = {'metadata': {'path': workdir}}
    client = NotebookClient(content, km=manager, timeout=CELL_LIMIT_S, resources=resources)
    try:
      client.execute()
    finally:
      nbformat.write(content, executed)


if __name__ == '__main__':
  main(*sys.argv[1:])
