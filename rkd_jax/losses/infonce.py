"""Contrastive distillation: a region is to find its own teacher embedding among those of others.

After the instance-wise distillation of HD-OVD (Fu et al. 2025, arXiv 2503.10152); docs/training.md
says what is as in its published code and what is not.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rkd_jax.ops.embeddings import l2_normalize
from rkd_jax.structures import RegionQueue


def region_infonce(
  student: Float[Array, "n d"],
  teacher: Float[Array, "n d"],
  valid: Bool[Array, "n"],
  temperature: float | int,
  duplicates: float | int = 1.0,
  queue: RegionQueue | None = None,
) -> Float[Array, ""]:
  """Mean cross-entropy, in nats, of each region's own teacher embedding among the candidates.

  Candidates are the teacher embeddings of all valid regions given and of the queue.  No valid
  region gives 0, and so does one without negatives.

  Args:
    student, teacher: of the regions of a whole batch, of any length.
    valid: False for padding, which is neither a region nor a candidate.
    temperature: factor on the cosine of a student and a candidate.
    duplicates: candidates whose cosine with a region's own teacher embedding is above it, such as
      the same region in an earlier batch, are no negatives of that region; 1 leaves none out.
    queue: teacher embeddings of earlier batches.
  """
  student, teacher = l2_normalize(student), l2_normalize(teacher)
  candidates, filled = teacher, valid
  if queue is not None:
    candidates = jnp.concatenate([teacher, l2_normalize(queue.embeddings)])
    filled = jnp.concatenate([valid, queue.valid])
  own = jnp.eye(len(teacher), len(candidates), dtype=bool)
  # Cosines are compared with a bound near 1, which bfloat16 does not resolve.
  logits = temperature * jnp.matmul(student, candidates.T, precision="highest")
  negative = filled[None] & ~own
  if duplicates < 1:
    negative &= jnp.matmul(teacher, candidates.T, precision="highest") <= duplicates
  of_all = jax.nn.logsumexp(jnp.where(own | negative, logits, -jnp.inf), axis=-1)
  of_own = jnp.sum(jnp.where(own, logits, 0.0), axis=-1)
  total = jnp.sum(jnp.where(valid, of_all - of_own, 0.0))
  return total / jnp.maximum(jnp.sum(valid), 1)


def empty_queue(length: int, dim: int) -> RegionQueue:
  """A queue before the first batch."""
  return RegionQueue(jnp.zeros((length, dim)), jnp.zeros(length, bool))


def enqueue(
  queue: RegionQueue, teacher: Float[Array, "n d"], valid: Bool[Array, "n"]
) -> RegionQueue:
  """The queue after a batch: its valid rows go in front, and the oldest out.

  Padding takes no place.  Rows are copied as they are, so that a queue is the same to the last bit
  for any number of devices.
  """
  rows = jnp.concatenate([teacher.astype(queue.embeddings.dtype), queue.embeddings])
  filled = jnp.concatenate([valid, queue.valid])
  first = jnp.argsort(~filled, stable=True)[: len(queue.valid)]
  filled = filled[first]
  return RegionQueue(jnp.where(filled[:, None], rows[first], 0.0), filled)
