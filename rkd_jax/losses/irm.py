"""Inter-embedding relationship matching between student and CLIP regions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rkd_jax.ops.embeddings import l2_normalize


def relationship_matrix(
  embeddings: Float[Array, "n d"], valid: Bool[Array, "n"], row_norm: str
) -> Float[Array, "n n"]:
  """Gram matrix of the unit-norm embeddings, each row divided by its L1 or L2 norm.

  Rows and columns of padding are zero.
  """
  unit = jnp.where(valid[:, None], l2_normalize(embeddings), 0.0)
  gram = unit @ unit.T
  if row_norm == "l2":
    return l2_normalize(gram)
  if row_norm == "l1":
    norm = jnp.sum(jnp.abs(gram), axis=1, keepdims=True)
    return gram / jnp.maximum(norm, 1e-12)
  raise ValueError(f"loss.irm.row_norm is {row_norm!r}; expected 'l1' or 'l2'.")


def inter_embedding_relationship(
  student: Float[Array, "n d"],
  teacher: Float[Array, "n d"],
  valid: Bool[Array, "n"],
  row_norm: str = "l1",
  reduction: str = "sum",
) -> Float[Array, ""]:
  """L_irm of the paper (eq. 2): squared Frobenius distance of relationship matrices.

  `sum` with L1 rows is the published code; `mean` (over the K^2 entries of valid
  regions) with L2 rows is the paper.
  """
  of_student, of_teacher = (relationship_matrix(x, valid, row_norm) for x in (student, teacher))
  total = jnp.sum(jnp.square(of_student - of_teacher))
  if reduction == "sum":
    return total
  if reduction == "mean":
    return total / jnp.square(jnp.maximum(jnp.sum(valid), 1))
  raise ValueError(f"loss.irm.reduction is {reduction!r}; expected 'sum' or 'mean'.")


def relation_divergence(
  student: Float[Array, "n d"],
  teacher: Float[Array, "n d"],
  valid: Bool[Array, "n"],
  temperature: float | int,
) -> Float[Array, ""]:
  """Mean Kullback-Leibler divergence, in nats, of the student's relations from the teacher's.

  A region's relations are the softmax of `temperature` times its cosines with the other valid
  regions.  Regions without others, and no valid region, give 0.  After the relation distillation of
  HD-OVD (arXiv 2503.10152), whose published code counts a region among its own relations.
  """
  others = valid[:, None] & valid[None] & ~jnp.eye(len(valid), dtype=bool)

  def log_relations(embeddings):
    unit = l2_normalize(embeddings)
    cosines = jnp.matmul(unit, unit.T, precision="highest")
    # Finite where there are no others, too; those entries are left out below.
    return jax.nn.log_softmax(jnp.where(others, temperature * cosines, -1e9), axis=-1)

  of_student, of_teacher = log_relations(student), log_relations(teacher)
  terms = jnp.exp(of_teacher) * (of_teacher - of_student)
  return jnp.sum(jnp.where(others, terms, 0.0)) / jnp.maximum(jnp.sum(valid), 1)
