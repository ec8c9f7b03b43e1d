"""One model on every local device, for calls that come from several threads."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import jax


class Replicas:
  """The variables of a model, copied to each of several devices when a call first needs it there.

  A call computes where its variables are:

      with replicas.lease() as variables:
        result = jax.device_get(function(variables, inputs))

  Inputs are NumPy arrays, or were computed within the same lease.  A jitted function is compiled
  once for each device that is used.  The devices being alike, so are the results.  Calls that
  never overlap stay on the first device.  `devices` are by default all that are local.  Where an
  array is on a device already, as a replica of a run's parameters is, it is not copied.
  """

  def __init__(self, variables: Any, devices: Sequence[jax.Device] = ()):
    self._variables = variables
    self._calls = dict.fromkeys(devices or jax.local_devices(), 0)
    self._copies: dict[jax.Device, Any] = {}
    self._lock = threading.Lock()

  @contextlib.contextmanager
  def lease(self) -> Iterator[Any]:
    """The variables on a device with the fewest other calls, the first of those."""
    with self._lock:
      device = min(self._calls, key=self._calls.__getitem__)
      if device not in self._copies:
        self._copies[device] = jax.tree.map(lambda x: _on(x, device), self._variables)
      self._calls[device] += 1
    try:
      yield self._copies[device]
    finally:
      with self._lock:
        self._calls[device] -= 1


def _on(array: Any, device: jax.Device) -> Any:
  for shard in getattr(array, "addressable_shards", ()):
    if shard.device == device and shard.data.shape == array.shape:
      return shard.data
  return jax.device_put(array, device)
