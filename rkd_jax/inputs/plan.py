"""Which records and which shapes each kind of batch has, from the config."""

from collections.abc import Mapping

import ml_collections

from rkd_jax.inputs.examples import BatchSpec
from rkd_jax.inputs.repeats import repeat_factors
from rkd_jax.inputs.sampler import Repeats
from rkd_jax.records.sources import Source, open_source, select

# The fields of a kind of batch in the config that say which records it takes, not their shapes.
_SELECTION = (
  "dir",
  "name",
  "class_embeddings",
  "split",
  "records",
  "repeat_threshold",
  "repeat_form",
)


def place(data: ml_collections.ConfigDict, kind: str) -> tuple[str, str, str]:
  """Folder, data set and split of a kind of batch; `data` is `config.data`."""
  own = data[kind]
  return own.get("dir") or data.dir, own.get("name") or data.name, own.split


def open_sources(config: ml_collections.ConfigDict) -> dict[str, Source]:
  """The data sources of the kinds that the schedule names, less the records not asked for."""
  data = config.data
  return {
    kind: select(open_source(*place(data, kind)), data[kind].get("records", ""))
    for kind in dict.fromkeys(data.schedule)
  }


def box_repeats(config: ml_collections.ConfigDict, sources: Mapping[str, Source]) -> dict:
  """Repeat factors of the records of box batches, if `data.box.repeat_threshold` asks for them."""
  box = config.data.box
  if "box" not in sources or not box.repeat_threshold:
    return {}
  factors = repeat_factors(sources["box"].index, box.repeat_threshold)
  return {"box": Repeats(factors, box.repeat_form)}


def detector_specs(config: ml_collections.ConfigDict) -> dict[str, BatchSpec]:
  """BatchSpec of every kind in `config.data`, 'eval' included."""
  embedding_dim = config.model.classifier.embedding_dim
  specs = {}
  for kind in {*config.data.schedule, "eval"}:
    fields = {k: v for k, v in config.data[kind].items() if k not in _SELECTION}
    if kind != "eval":
      fields["embedding_dim"] = embedding_dim
    specs[kind] = BatchSpec(kind=kind, **fields)
  return specs
