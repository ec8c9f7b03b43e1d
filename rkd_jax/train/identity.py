"""What a run computes from, apart from its settings: the same wherever it lies."""

from collections.abc import Iterable

import ml_collections
import xxhash

from rkd_jax.files import storage
from rkd_jax.inputs.plan import Plan
from rkd_jax.runs.checkpoint import CheckpointError
from rkd_jax.runs.config import at, places
from rkd_jax.runs.restore import recorded_digests


def identities(config: ml_collections.ConfigDict, plan: Plan) -> dict[str, str | None]:
  """'records.box' -> digest of its records and of the teachers' results joined to them, and of each
  other file or run that the config names; None where nothing can be said.
  """
  settings = config.to_dict()
  found: dict[str, str | None] = {
    f"records.{kind}": source.identity for kind, source in plan.sources.items()
  }
  for key in places(settings):
    value, last = at(settings, key), key.rpartition(".")[2]
    if not value or last in ("dir", "teachers"):
      continue
    found[key] = _of_run(value) if key.startswith("init.") else _of_file(value)
  return found


def _of_file(path: str) -> str | None:
  try:
    return xxhash.xxh3_64_hexdigest(storage.path(path).read_bytes())
  except OSError:
    return None


def _of_run(path: str) -> str | None:
  """Of the parameters that a run starts from, which it does not need any more when it goes on."""
  try:
    digests = recorded_digests(path)
  except (OSError, CheckpointError):
    return _of_file(path)
  if digests is None:
    return None
  return _digest(f"{name} {digest}" for name, digest in sorted(digests.items()))


def _digest(lines: Iterable[str]) -> str:
  return xxhash.xxh3_64_hexdigest("\n".join(lines).encode())
