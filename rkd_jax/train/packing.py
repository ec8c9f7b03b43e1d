"""Few arrays in place of many small ones, for the loop to hand over.

To start a step costs the host some microseconds for each array that goes in or comes out, and the
norms and biases of a network, with their two moments, are most of its arrays and next to nothing of
its numbers.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

# Numbers of an array that is packed; larger ones are few, and would be copied.
_SMALL = 4096


@dataclasses.dataclass(frozen=True)
class Packing:
  """How a list of arrays is packed: the large ones as they are, then one array [n] for each type of
  the small ones.

  Attributes:
    shapes: of the list.
    groups: for each type the positions of its small arrays, in their order.
  """

  shapes: tuple[tuple[int, ...], ...]
  groups: tuple[tuple[int, ...], ...]

  @classmethod
  def of(cls, leaves: Sequence[Any]) -> "Packing":
    """Of arrays, or abstract ones, that are alike on all devices."""
    groups: dict[Any, list[int]] = {}
    for position, leaf in enumerate(leaves):
      if math.prod(leaf.shape) <= _SMALL and jnp.issubdtype(leaf.dtype, jnp.number):
        groups.setdefault(leaf.dtype, []).append(position)
    return cls(
      tuple(tuple(leaf.shape) for leaf in leaves),
      tuple(tuple(group) for group in groups.values() if len(group) > 1),
    )

  def pack(self, leaves: Sequence[jax.Array]) -> list[jax.Array]:
    """The large arrays themselves, and the small ones of each group as one."""
    small = {position for group in self.groups for position in group}
    large = [leaf for position, leaf in enumerate(leaves) if position not in small]
    return large + _joined([[leaves[position] for position in group] for group in self.groups])

  def unpack(self, packed: Sequence[jax.Array]) -> list[jax.Array]:
    """The list again, to the last bit."""
    count = len(packed) - len(self.groups)
    shapes = tuple(tuple(self.shapes[position] for position in group) for group in self.groups)
    found: dict[int, jax.Array] = {}
    for group, arrays in zip(self.groups, _cut(list(packed[count:]), shapes), strict=True):
      found |= zip(group, arrays, strict=True)
    large = iter(packed[:count])
    return [found[i] if i in found else next(large) for i in range(len(self.shapes))]


@jax.jit
def _joined(groups: list[list[jax.Array]]) -> list[jax.Array]:
  return [jnp.concatenate([array.ravel() for array in group]) for group in groups]


@functools.partial(jax.jit, static_argnums=1)
def _cut(
  joined: list[jax.Array], shapes: tuple[tuple[tuple[int, ...], ...], ...]
) -> list[list[jax.Array]]:
  cut = []
  for array, own in zip(joined, shapes, strict=True):
    ends = list(itertools.accumulate(map(math.prod, own)))
    parts = zip([0, *ends], ends, own)
    cut.append([array[start:end].reshape(shape) for start, end, shape in parts])
  return cut
