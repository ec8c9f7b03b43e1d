"""Draws a fixed number of foreground and background candidates for a loss.

The rule is detectron2's `subsample_labels`: at most `floor(num * positive_fraction)` foreground,
then background up to `num`; missing foreground is replaced by background, not the other way round.
Labels are those of `matching.match`: 1 foreground, 0 background, -1 never drawn (padding, too).
The draw is a function of the key alone, so it does not depend on the number of devices.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from rkd_jax.structures import Arr


def sample_foreground_background(
  key: PRNGKeyArray | None, label: Int[Arr, "n"], num: int, positive_fraction: float | int
) -> tuple[Int[Array, "num"], Bool[Array, "num"], Bool[Array, "num"]]:
  """Draws `num` candidates; a key of None takes them in index order.

  Returns:
    Indices (foreground, then background, then padding with index 0), whether an entry is
    foreground, and whether it is valid.

  Raises:
    ValueError: `num` is not positive, or `positive_fraction` is not in [0, 1].
  """
  if num < 1 or not 0 <= positive_fraction <= 1:
    raise ValueError(
      f"sampling: num={num}, positive_fraction={positive_fraction}; "
      "expected num >= 1 and a fraction in [0, 1]."
    )
  n = label.shape[0]
  if key is None:
    priority = jnp.arange(n, 0, -1, dtype=jnp.float32)  # earlier candidates first
  else:
    priority = jax.random.uniform(key, (n,))
  most = min(int(num * positive_fraction), n)

  def first(member, count):
    # top_k, not a sort: there are a hundred thousand anchors and 256 samples.
    return jax.lax.top_k(jnp.where(member, priority, -1.0), min(count, n))[1]

  positive, negative = label == 1, label == 0
  num_positive = jnp.minimum(jnp.sum(positive), most)
  num_negative = jnp.minimum(jnp.sum(negative), num - num_positive)
  slot = jnp.arange(num)
  is_foreground = slot < num_positive
  valid = slot < num_positive + num_negative
  # The background follows directly after the foreground that was found.
  source = jnp.where(is_foreground, slot, slot - num_positive + most)
  drawn = jnp.concatenate([first(positive, most), first(negative, num)])
  index = drawn.at[source].get(mode="fill", fill_value=0)
  return jnp.where(valid, index, 0), is_foreground, valid
