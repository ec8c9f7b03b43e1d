"""Mask loss (Mask R-CNN) of class-agnostic masks."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from rkd_jax.structures import Arr


def mask_bce(
  logits: Float[Arr, "n h w"], targets: Bool[Arr, "n h w"], foreground: Bool[Arr, "n"]
) -> Float[Array, ""]:
  """Binary cross-entropy, the mean over all pixels of the foreground RoIs of a group of images.

  Without foreground the loss and its gradient are zero, as in the reference.
  """
  _, height, width = logits.shape
  loss = optax.sigmoid_binary_cross_entropy(logits, targets.astype(jnp.float32))
  total = jnp.sum(jnp.where(foreground[:, None, None], loss, 0.0))
  return total / (jnp.maximum(jnp.sum(foreground), 1) * (height * width))
