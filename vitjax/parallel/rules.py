"""Sharding rules: which mesh axes split each parameter.

A rule is (path regex, spec). The first rule whose regex matches the whole path wins, and a path that no rule
matches is an error: nothing is replicated by accident. A spec is text such as 'fsdp,model': one entry per
dimension, counted from the right, so that scanned blocks (with a leading layer dimension) share the rules of
unscanned ones. An entry is an axis name, several joined by '+', or 'none'; 'replicated' stands for no
entries.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vitjax import trees
from vitjax.errors import Problem, ShardingRuleError

Rule = tuple[str, str]

# Tensor parallelism as in Megatron (arXiv 1909.08053): heads and MLP width over 'model', so that a block
# needs one reduction after each of attention and MLP. 'fsdp' takes the token width, and the outputs of
# convolutions.
DEFAULT_RULES: tuple[Rule, ...] = (
  # Attention: query, key, value [d, k, e] and [k, e]; out [k, e, d] and [d].
  (r'.*/(query|key|value)/kernel', 'fsdp,model,none'),
  (r'.*/(query|key|value)/bias', 'model,none'),
  (r'.*/out/kernel', 'model,none,fsdp'),
  # MLP: Dense_0 [d, mlp], Dense_1 [mlp, d].
  (r'.*/Dense_0/kernel', 'fsdp,model'),
  (r'.*/Dense_0/bias', 'model'),
  (r'.*/Dense_1/kernel', 'model,fsdp'),
  # Head: [d, v], or [1, 1, c, v] in a BiT ResNet.
  (r'(.*/)?head(/.*)?/kernel', 'fsdp,model'),
  (r'(.*/)?head(/.*)?/bias', 'model'),
  (r'pre_logits/kernel', 'fsdp,none'),
  # Convolutions [h, w, in, out]: patches, hybrid stem, BiT ResNet.
  (r'embedding/kernel', 'fsdp'),
  (r'(.*/)?conv[^/]*/kernel', 'fsdp'),
  # Small arrays: class token, registers, probe and position tables; norms and the remaining biases.
  (r'(.*/)?(cls|registers|probe|mask_token)', 'replicated'),
  (r'(.*/)?(pos_embedding[^/]*|relative_[^/]*)', 'replicated'),
  (r'(.*/)?(scale|bias)', 'replicated'),
)


@dataclasses.dataclass(frozen=True)
class ParamSharding:
  """How one parameter lies on the mesh; a row of the sharding table.

  Attributes:
    path: 'a/b/c'.
    shape: global shape.
    dtype: such as 'float32'.
    rule: the regex that matched.
    spec: mesh axes of each dimension.
    bytes_per_device: size of one device's part.
    not_divided: dimensions that a built-in rule would split but whose axes do not divide them, such as
      'dim 1 (3) over model (2)'; they are replicated.
  """

  path: str
  shape: tuple[int, ...]
  dtype: str
  rule: str
  spec: PartitionSpec
  bytes_per_device: int
  not_divided: tuple[str, ...] = ()


@dataclasses.dataclass
class _Rule:
  """A compiled rule, and which paths it matched (`seen`) or decided (`used`)."""

  regex: re.Pattern[str]
  entries: tuple[tuple[str, ...], ...]
  where: str | None
  seen: int = 0
  used: int = 0


def sharding_table(
  abstract_params: Any, mesh: Mesh, extra_rules: Sequence[Rule] = ()
) -> tuple[ParamSharding, ...]:
  """Returns one row per parameter, in tree order: what --dry_run prints.

  Args:
    abstract_params: tree of arrays or ShapeDtypeStructs.
    mesh: a mesh from `make_mesh`.
    extra_rules: `parallel.rules`, tried before DEFAULT_RULES. They are taken by the word: a dimension that
      their axes do not divide is an error, where a built-in rule replicates it and says so in the row.

  Raises:
    ShardingRuleError: parameters that no rule matches; extra rules that decide nothing, name unknown axes, or
      do not fit a parameter they match. All problems at once.
  """
  problems: list[Problem] = []
  rules = [
    *_compile(extra_rules, tuple(mesh.axis_names), problems, is_extra=True),
    *_compile(DEFAULT_RULES, tuple(mesh.axis_names), problems, is_extra=False),
  ]
  rows = []
  for path, leaf in trees.flatten(abstract_params).items():
    matches = [rule for rule in rules if rule.regex.fullmatch(path)]
    for rule in matches:
      rule.seen += 1
    if matches:
      matches[0].used += 1
      rows.append(_apply(matches[0], path, leaf, mesh, problems))
    else:
      hint = "Add a pair such as ('" + re.escape(path) + "', 'replicated') to parallel.rules"
      problems.append(
        Problem(path, f'shape {tuple(leaf.shape)}', 'a sharding rule that matches this path', hint)
      )
  problems += [_unused(rule) for rule in rules if rule.where and not rule.used]
  if problems:
    raise ShardingRuleError('The sharding rules do not fit the parameters.', problems)
  return tuple(rows)


def param_specs(abstract_params: Any, mesh: Mesh, extra_rules: Sequence[Rule] = ()) -> Any:
  """Returns the tree of PartitionSpecs. Arguments and errors as for `sharding_table`."""
  specs = [row.spec for row in sharding_table(abstract_params, mesh, extra_rules)]
  return jax.tree.unflatten(jax.tree.structure(abstract_params), specs)


def param_shardings(abstract_params: Any, mesh: Mesh, extra_rules: Sequence[Rule] = ()) -> Any:
  """Returns the tree of NamedShardings. Arguments and errors as for `sharding_table`."""
  shardings = [NamedSharding(mesh, row.spec) for row in sharding_table(abstract_params, mesh, extra_rules)]
  return jax.tree.unflatten(jax.tree.structure(abstract_params), shardings)


def shardings_like(
  optimizer: optax.GradientTransformation,
  opt_state: Any,
  shardings: Any,
  otherwise: NamedSharding,
  params: Any,
) -> Any:
  """Returns the shardings of an optimiser state: what is kept per parameter lies where its parameter lies.

  Row and column means of a factored second moment lack one dimension of their parameter: they lie as the others do.

  Args:
    optimizer: the transformation whose init made `opt_state`.
    opt_state: abstract or concrete state.
    shardings: tree of NamedShardings from `param_shardings`.
    otherwise: sharding of everything else, such as step counts.
    params: abstract or concrete parameters.
  """

  def is_masked(node: Any) -> bool:
    return isinstance(
      node, optax.MaskedNode
    )  # stands in for a parameter that this part of the chain leaves out

  return optax.tree_map_params(
    optimizer,
    lambda leaf, sharding, param: leaf if is_masked(leaf) else _reduced(leaf.shape, sharding, param.shape),
    opt_state,
    shardings,
    params,
    transform_non_params=lambda leaf: leaf if is_masked(leaf) else otherwise,
    is_leaf=is_masked,
  )


def _reduced(shape: tuple[int, ...], sharding: NamedSharding, whole: tuple[int, ...]) -> NamedSharding:
  """Returns the sharding of an array that has a parameter's shape, or that shape less one dimension, or another."""
  if shape == whole:
    return sharding
  entries = tuple(sharding.spec) + (None,) * (len(whole) - len(sharding.spec))
  axes = range(len(whole))
  specs = [
    PartitionSpec(*entries[:axis], *entries[axis + 1 :])
    for axis in axes
    if (*whole[:axis], *whole[axis + 1 :]) == shape
  ]
  # Equal dimensions leave open which one is missing: any choice is right, the one that splits more takes less memory.
  best = max(specs, key=lambda spec: sum(entry is not None for entry in spec), default=PartitionSpec())
  return NamedSharding(sharding.mesh, best)


def _compile(
  rules: Sequence[Rule], axes: tuple[str, ...], problems: list[Problem], *, is_extra: bool
) -> list[_Rule]:
  compiled = []
  for i, (pattern, spec) in enumerate(rules):
    where = f'parallel.rules[{i}]' if is_extra else f'DEFAULT_RULES[{i}]'
    entries = _parse_spec(spec)
    names = [name for entry in entries for name in entry]
    unknown = sorted(set(names) - set(axes))
    if unknown:
      expected = f"'replicated', or per dimension an axis of {axes}, several joined by '+', or 'none'"
      problems.append(Problem(where, repr(spec), expected, f'Unknown: {", ".join(map(repr, unknown))}'))
    if len(set(names)) < len(names):
      problems.append(Problem(where, repr(spec), 'each axis at most once'))
    try:
      compiled.append(_Rule(re.compile(pattern), entries, where if is_extra else None))
    except re.error as error:
      problems.append(Problem(where, repr(pattern), f'a regular expression ({error})'))
  return compiled


def _parse_spec(spec: str) -> tuple[tuple[str, ...], ...]:
  if spec.strip() == 'replicated':
    return ()
  entries = [entry.strip() for entry in spec.split(',')]
  return tuple(
    () if entry == 'none' else tuple(name.strip() for name in entry.split('+')) for entry in entries
  )


def _apply(rule: _Rule, path: str, leaf: Any, mesh: Mesh, problems: list[Problem]) -> ParamSharding:
  """Returns the row of one parameter; appends to `problems` where a rule does not fit it."""
  shape, entries = tuple(leaf.shape), rule.entries
  if len(entries) > len(shape):
    expected = f'at most {len(shape)} entries for {path} of shape {shape}'
    problems.append(Problem(rule.where or path, ','.join('+'.join(e) or 'none' for e in entries), expected))
    entries = ()
  padded = ((),) * (len(shape) - len(entries)) + entries
  spec, not_divided, per_device = [], [], 1
  for i, (dim, names) in enumerate(zip(shape, padded, strict=True)):
    parts = math.prod(mesh.shape[name] for name in names if name in mesh.shape)
    if dim % parts:
      note = f'dim {i} ({dim}) over {"+".join(names)} ({parts})'
      if rule.where:
        expected = f'axes that divide {path} of shape {shape}'
        problems.append(Problem(rule.where, note, expected, "Use 'none' for this dimension"))
      not_divided.append(note)
      names, parts = (), 1
    spec.append(names if len(names) > 1 else names[0] if names else None)
    per_device *= dim // parts
  return ParamSharding(
    path=path,
    shape=shape,
    dtype=str(leaf.dtype),
    rule=rule.regex.pattern,
    spec=PartitionSpec(*spec) if any(spec) else PartitionSpec(),
    bytes_per_device=per_device * leaf.dtype.itemsize,
    not_divided=tuple(not_divided),
  )


def _unused(rule: _Rule) -> Problem:
  found = repr(rule.regex.pattern)
  if rule.seen:
    return Problem(
      str(rule.where),
      found,
      'a rule that decides something',
      'Earlier rules match all of its paths; move it up',
    )
  return Problem(str(rule.where), found, 'a regex that matches the whole path of a parameter')
