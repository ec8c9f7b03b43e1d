"""Where arrays live: one (data, model) mesh, and rules from parameter path to axes."""

import re
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rkd_jax.runs.state import parameter_paths

# (regular expression on the path, axis names).  First match wins; else replicated.
RULES: tuple[tuple[str, tuple], ...] = (
  # The large matrices: the first fully connected layer of the box head, and vocabulary rows.
  (r".*box_head/fc1/kernel", (None, "model")),
  (r".*embeddings", ("model", None)),
)


def make_mesh(
  config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """A mesh over the devices, by default all; `data` of -1 takes what `model` leaves.

  Raises:
    ValueError: the axes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  model = config.model
  data = config.data if config.data != -1 else len(devices) // model
  if data * model != len(devices):
    raise ValueError(
      f"mesh (data={config.data}, model={model}) does not cover {len(devices)} devices; "
      "set config.mesh.data=-1 and config.mesh.model to a divisor of the device count."
    )
  return Mesh(np.asarray(devices).reshape(data, model), ("data", "model"))


def shardings(mesh: Mesh, tree):
  """A NamedSharding per leaf of a tree of (abstract) arrays, by path.

  An axis that does not divide evenly stays replicated, so small models run on any mesh.
  """

  def place(path: str, leaf) -> NamedSharding:
    axes = next((axes for pattern, axes in RULES if re.fullmatch(pattern, path)), ())
    fits = len(axes) == leaf.ndim and all(
      axis is None or leaf.shape[i] % mesh.shape[axis] == 0 for i, axis in enumerate(axes)
    )
    return NamedSharding(mesh, PartitionSpec(*axes) if fits else PartitionSpec())

  return jax.tree.map(place, parameter_paths(tree), tree)


def with_shardings(tree, shardings):
  """Abstract arrays of the same shapes and types, placed; one sharding may stand for all."""
  if isinstance(shardings, NamedSharding):
    shardings = jax.tree.map(lambda _: shardings, tree)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
  )


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def shard_batch(mesh: Mesh, batch):
  """Host-local NumPy rows to global arrays, split over `data` along the batch axis.

  Every host passes its own slice of the same global batch.

  Raises:
    ValueError: the global batch does not divide over the `data` axis.
  """
  sharding = NamedSharding(mesh, PartitionSpec("data"))
  rows = len(jax.tree.leaves(batch)[0]) * jax.process_count()
  if rows % mesh.shape["data"]:
    raise ValueError(
      f"A batch of {rows} images does not divide over {mesh.shape['data']} devices: change the "
      "batch size, or config.mesh."
    )
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
