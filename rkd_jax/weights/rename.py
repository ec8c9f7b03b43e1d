"""State dicts of other libraries to our parameters, and back.

A family of networks has a module beside this one that says, parameter by parameter, what the other
library calls it (`Entry`).  How arrays are laid out there, and that a state dict fits, is all here.
"""

import itertools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import traverse_util

# Faults that an error lists.
_LISTED = 10


class WeightsError(ValueError):
  """A state dict does not fit the network."""


class Layout(NamedTuple):
  """How an array is laid out elsewhere: from there to here, and from here to there."""

  read: Callable[[np.ndarray], np.ndarray]
  write: Callable[[np.ndarray], np.ndarray]


class Entry(NamedTuple):
  """Where a parameter stands in a state dict, and how."""

  name: str
  layout: Layout


def _permuted(*axes: int) -> Layout:
  inverse = np.argsort(axes)
  return Layout(lambda value: value.transpose(axes), lambda value: value.transpose(inverse))


AS_IS = Layout(lambda value: value, lambda value: value)
SCALAR = Layout(lambda value: value.reshape(()), lambda value: value.reshape(1))
LINEAR = _permuted(1, 0)  # (out, in)
CONVOLUTION = _permuted(2, 3, 1, 0)  # (out, in, h, w)
TRANSPOSED_CONVOLUTION = _permuted(2, 3, 0, 1)  # (in, out, h, w), to (h, w, in, out) without a flip
BGR_CONVOLUTION = Layout(  # of images that are RGB here
  lambda value: CONVOLUTION.read(value)[:, :, ::-1],
  lambda value: CONVOLUTION.write(value[:, :, ::-1]),
)


def of_flattened_map(rows: int, channels: int) -> Layout:
  """A linear layer that reads a square map, flattened as C, H, W there and as H, W, C here.

  Raises:
    WeightsError: `rows` numbers are no square map of `channels` channels.
  """
  side = round((rows / channels) ** 0.5)
  if side * side * channels != rows:
    raise WeightsError(
      f"a layer reads {rows} numbers, which is no square map of {channels} channels."
    )
  there, here = (-1, channels, side, side), (side, side, channels, -1)
  return Layout(
    lambda value: value.reshape(there).transpose(2, 3, 1, 0).reshape(rows, -1),
    lambda value: value.reshape(here).transpose(3, 2, 0, 1).reshape(-1, rows),
  )


def third(part: int, layout: Layout) -> Layout:
  """One of three that share an entry, its rows one after another; `write` gives its shape only."""
  return Layout(
    lambda value: layout.read(np.split(value, 3)[part]),
    lambda value: np.concatenate([layout.write(value)] * 3),
  )


def unwrapped(state: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
  """The arrays without the prefixes that wrappers of torch give to all names.

  They are 'module.', '_orig_mod.' and 'model.', of DistributedDataParallel, torch.compile and
  trainers; one that is not before every name is part of the names.
  """
  found, removed = state, []
  while found and (prefix := _common_wrapper(found)):
    found = {name.removeprefix(prefix): value for name, value in found.items()}
    removed.append(prefix)
  if removed:
    logging.info("All names begin with %r, which was left out.", "".join(removed))
  return found


def _common_wrapper(names: Collection[str]) -> str:
  prefixes = ("module.", "_orig_mod.", "model.")
  return next((p for p in prefixes if all(name.startswith(p) for name in names)), "")


def renamed(path: str, rules: Sequence[tuple[str, Any]]) -> str:
  """A path after the substitutions of `rules`, in their order, with torch's name of its leaf."""
  path = path.replace("/", ".")
  for pattern, name in (
    *rules,
    (r"\b(kernel|scale|embedding)$", "weight"),
    (r"\b(mean|var)$", r"running_\1"),
  ):
    path = re.sub(pattern, name, path)
  return path


def usual_entries(variables: Any, rules: Sequence[tuple[str, Any]]) -> dict[str, Entry]:
  """Where torch has each of a tree of variables: under a name by `rules`, in the usual layout."""
  found = {}
  for path, value in traverse_util.flatten_dict(dict(variables), sep="/").items():
    kernel = LINEAR if len(value.shape) == 2 else CONVOLUTION  # pyright: ignore[reportAttributeAccessIssue]
    found[path] = Entry(renamed(path, rules), kernel if path.endswith("kernel") else AS_IS)
  return found


def to_params(
  state: Mapping[str, np.ndarray],
  expected: Any,
  entries: Mapping[str, Entry],
  remedy: str,
  ignored: str = "",
  allow: Sequence[str] = (),
) -> dict[str, Any]:
  """Parameters of a network, of the types that it has, from a state dict.

  Args:
    state: arrays by name.
    expected: tree of arrays or ShapeDtypeStructs that says what the network has.
    entries: where each of its parameters stands, by path ("rpn/conv/kernel").
    remedy: what to do if they do not fit.
    ignored: regular expression of names that hold no weight.
    allow: regular expressions of names that may be unused, or missing; those are left out.

  Raises:
    WeightsError: missing and unused names, other shapes or types, and numbers that are not finite:
      ten of them, and how many there are.
  """
  found, faults = {}, []

  for pattern in allow:
    try:
      re.compile(pattern)
    except re.error as error:
      raise WeightsError(f"{pattern!r} is no regular expression ({error}); correct it.") from error

  def allowed(name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in allow)

  for path, like in traverse_util.flatten_dict(dict(expected), sep="/").items():
    name, layout = entries[path]
    if name not in state:
      if not allowed(name):
        faults.append(f"missing {name} (for {path})")
      continue
    value = np.asarray(state[name])
    shape = layout.write(np.broadcast_to(np.float32(0), like.shape)).shape  # pyright: ignore[reportAttributeAccessIssue]
    if value.shape != shape:
      faults.append(f"{name} has shape {value.shape}, the network needs {shape}")
    elif not jnp.issubdtype(value.dtype, jnp.floating):
      faults.append(f"{name} has the type {value.dtype}, expected floating-point numbers")
    elif not np.isfinite(value.astype(np.float32, copy=False)).all():
      faults.append(f"{name} holds numbers that are not finite")
    else:
      found[path] = jnp.asarray(layout.read(value), like.dtype)  # pyright: ignore[reportAttributeAccessIssue]
  for name in sorted(state.keys() - {entry.name for entry in entries.values()}):
    if not (re.fullmatch(ignored, name) or allowed(name)):
      faults.append(f"unused {name} {np.shape(state[name])}")
  if faults:
    listed = "\n  ".join(_some(faults))
    raise WeightsError(f"the state dict does not fit the network. {remedy}:\n  {listed}")
  return traverse_util.unflatten_dict(found, sep="/")


def _some(faults: Sequence[str]) -> list[str]:
  """Ten of the faults, of each kind some, and how many there are."""
  if len(faults) <= _LISTED:
    return list(faults)
  kinds: dict[str, list[int]] = {"of another shape, type or value": [], "missing": [], "unused": []}
  for number, fault in enumerate(faults):
    kind = fault.partition(" ")[0]
    kinds[kind if kind in kinds else "of another shape, type or value"].append(number)
  turns = itertools.chain(*itertools.zip_longest(*kinds.values()))
  chosen = sorted(itertools.islice((n for n in turns if n is not None), _LISTED))
  counts = ", ".join(f"{len(numbers)} {kind}" for kind, numbers in kinds.items() if numbers)
  return [*(faults[n] for n in chosen), f"... {len(faults)} in all: {counts}"]


def from_params(params: Any, entries: Mapping[str, Entry]) -> dict[str, np.ndarray]:
  """The state dict of a network's parameters, under the other library's names, in its layouts."""
  flat = traverse_util.flatten_dict(dict(params), sep="/")
  named = ((entries[path], np.asarray(value)) for path, value in flat.items())
  return {name: layout.write(value) for (name, layout), value in named}
