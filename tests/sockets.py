"""The listening TCP sockets of a process, read from /proc."""

import ipaddress
import pathlib


def listening(pid):
  """Returns [(address, port)] of the TCP sockets on which a process listens."""
  inodes = set()
  for descriptor in pathlib.Path(f'/proc/{pid}/fd').iterdir():
    try:
      target = str(descriptor.readlink())
    except OSError:  # closed since it was listed
      continue
    if target.startswith('socket:['):
      inodes.add(target.removeprefix('socket:[').removesuffix(']'))
  found = []
  for name in ('tcp', 'tcp6'):
    for line in pathlib.Path(f'/proc/net/{name}').read_text().splitlines()[1:]:
      fields = line.split()
      if fields[3] == '0A' and fields[9] in inodes:
        host, port = fields[1].split(':')
        words = [bytes.fromhex(host[i : i + 8])[::-1] for i in range(0, len(host), 8)]
        found.append((ipaddress.ip_address(b''.join(words)), int(port, 16)))
  return found


def is_loopback(address):
  """Whether an address is loopback, also when an IPv4 one is written as IPv6."""
  mapped = getattr(address, 'ipv4_mapped', None)
  return (mapped or address).is_loopback
