"""A bucket in memory: the part of Google Cloud Storage's JSON API that TensorStore speaks, on a loopback port, and
the same bytes as an fsspec file system, through which etils.epath (and so Orbax) sees gs:// paths."""

from __future__ import annotations

import http.server
import itertools
import json
import threading
import urllib.parse

from fsspec.implementations.memory import MemoryFileSystem

_generations = itertools.count(1)


class FakeGcs(MemoryFileSystem):
  """fsspec's file system in memory, for gs://."""

  protocol = ('gcs', 'gs')
  store: dict = {}  # noqa: RUF012 - fsspec's own way to share it between instances
  pseudo_dirs = ['']  # noqa: RUF012

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(str(path).replace('gs://', 'memory://', 1))

  def exists(self, path, **kwargs):
    """Folders exist when something is in them; like placeholders, those that were made exist too."""
    return super().exists(path, **kwargs)


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'

  def log_message(self, *args):
    """Says nothing."""

  def _answer(self, code, body=b'', headers=None):
    self.send_response(code)
    for name, value in (headers or {}).items():
      self.send_header(name, value)
    self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def _json(self, value):
    self._answer(200, json.dumps(value).encode(), {'Content-Type': 'application/json'})

  def _parsed(self):
    url = urllib.parse.urlsplit(self.path)
    query = dict(urllib.parse.parse_qsl(url.query))
    parts = url.path.split('/b/', 1)[1].split('/o', 1)
    name = urllib.parse.unquote(parts[1].lstrip('/')) if len(parts) > 1 else None
    return parts[0], name, query

  def do_GET(self):
    """Reads an object or a range of it, or lists."""
    bucket, name, query = self._parsed()
    self.server.requests.append(f'GET {name}')
    if not name:
      prefix = query.get('prefix', '')
      start, end = query.get('startOffset', ''), query.get('endOffset', '')
      names = sorted(
        key.removeprefix(f'/{bucket}/') for key in FakeGcs.store if key.startswith(f'/{bucket}/')
      )
      names = [n for n in names if n.startswith(prefix) and n >= start and (not end or n < end)]
      sizes = {n: FakeGcs.store[f'/{bucket}/{n}'].size for n in names}
      self._json({'items': [{'name': n, 'size': str(sizes[n]), 'generation': '1'} for n in names]})
      return
    found = FakeGcs.store.get(f'/{bucket}/{name}')
    if found is None:
      self._answer(404, b'{}')
      return
    data = found.getvalue()
    generation = str(getattr(found, 'generation', 1))
    headers = {'x-goog-generation': generation, 'Content-Type': 'application/octet-stream'}
    wanted = self.headers.get('Range')
    if wanted is None:
      self._answer(200, data, headers)
      return
    first, last = wanted.removeprefix('bytes=').split('-')
    begin = int(first) if first else max(0, len(data) - int(last))
    stop = min(len(data), int(last) + 1) if first and last else len(data)
    headers['Content-Range'] = f'bytes {begin}-{stop - 1}/{len(data)}'
    self._answer(206, data[begin:stop], headers)

  def do_POST(self):
    """Writes an object."""
    bucket, _, query = self._parsed()
    self.server.requests.append(f'POST {query["name"]}')
    data = self.rfile.read(int(self.headers['Content-Length']))
    path = f'/{bucket}/{query["name"]}'
    old = FakeGcs.store.get(path)
    if query.get('ifGenerationMatch') == '0' and old is not None:
      self._answer(412, b'{}')
      return
    file_system = FakeGcs()
    file_system.makedirs(path.rsplit('/', 1)[0], exist_ok=True)
    file_system.pipe_file(path, data)
    FakeGcs.store[path].generation = next(_generations)
    self._json(
      {'name': query['name'], 'generation': str(FakeGcs.store[path].generation), 'size': str(len(data))}
    )

  def do_DELETE(self):
    """Deletes an object."""
    bucket, name, _ = self._parsed()
    self._answer(204 if FakeGcs.store.pop(f'/{bucket}/{name}', None) is not None else 404)


def serve():
  """Returns a server that runs in a thread of its own; `requests` lists what was asked of it."""
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
  server.daemon_threads = True
  server.requests = []
  threading.Thread(target=server.serve_forever, daemon=True).start()
  return server
