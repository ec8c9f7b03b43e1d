"""A trained CLIP, frozen: what the offline step and prediction need of it."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float

from rkd_jax.checkpoint import CheckpointError, restore_variables
from rkd_jax.clip import class_embeddings
from rkd_jax.clip.model import Clip
from rkd_jax.clip.regions import RegionEncoder
from rkd_jax.clip.tokenizer import Tokenizer

TOKENIZER_FILE = "tokenizer.json"


@dataclasses.dataclass(frozen=True)
class FrozenClip:
  """Both towers with their weights, and the tokenizer they were trained with."""

  model: Clip
  variables: Any
  tokenizer: Tokenizer

  @property
  def image_size(self) -> int:
    return self.model.config.image_resolution

  @property
  def embedding_dim(self) -> int:
    return self.model.config.embed_dim

  def region_encoder(self, batch_size: int = 64) -> RegionEncoder:
    return RegionEncoder(self.model, self.variables, batch_size)

  def embed_classes(
    self, names: list[str], template: str = class_embeddings.TEMPLATE
  ) -> Float[np.ndarray, "c d"]:
    return class_embeddings.embed_classes(
      self.model, self.variables, self.tokenizer, names, template
    )


def make_clip(config: dict[str, Any], tokenizer: Tokenizer) -> Clip:
  """The CLIP of a config's `clip` block, with the vocabulary of its tokenizer."""
  return Clip.from_config({**config, "vocab_size": tokenizer.vocabulary_size})


def init_clip(model: Clip, key: jax.Array):
  """Fresh variables {'params', ...}; both towers are touched once."""
  config = model.config
  images = jnp.zeros((2, config.image_resolution, config.image_resolution, 3))
  tokens = jnp.zeros((2, config.context_length), jnp.int32)
  return model.init(key, images, tokens, True)


def load_clip(path: str) -> FrozenClip:
  """Reads the folder of a CLIP run: config.json, tokenizer.json and checkpoints.

  Raises:
    CheckpointError: the folder is not that of a CLIP run.
  """
  folder = epath.Path(path)
  for name in ("config.json", TOKENIZER_FILE):
    if not (folder / name).exists():
      raise CheckpointError(
        f"{path} has no {name}: expected the --workdir of a run with config.task='clip'."
      )
  tokenizer = Tokenizer.from_dict(json.loads((folder / TOKENIZER_FILE).read_text()))
  model = make_clip(json.loads((folder / "config.json").read_text())["clip"], tokenizer)
  variables = jax.eval_shape(lambda key: init_clip(model, key), jax.random.key(0))
  expected = {
    "params": variables["params"],
    "model_state": {k: v for k, v in variables.items() if k != "params"},
  }
  restored = restore_variables(path, expected)
  return FrozenClip(model, {"params": restored["params"], **restored["model_state"]}, tokenizer)
