"""A trained CLIP, frozen: what the offline step and prediction need of it.

`load_clip` reads the folder of a CLIP run of this project, and published weights: OpenAI's
TorchScript archives, plain state dicts, and the files of Hugging Face and open_clip.  No torch is
needed.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Float

from rkd_jax.files.torch_reader import is_torch_archive, read_checkpoint
from rkd_jax.frozen.regions import RegionEncoder
from rkd_jax.machine.batches import map_batches
from rkd_jax.models.clip.model import Clip, init_clip, make_clip
from rkd_jax.models.clip.tokenizer import Tokenizer
from rkd_jax.runs.checkpoint import CheckpointError, restore_variables
from rkd_jax.weights.clip import (
  Settings,
  config_from_torch,
  layout_of,
  params_from_torch,
  read_settings,
  to_openai,
)

TOKENIZER_FILE = "tokenizer.json"
_TEXT_BATCH = 128


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

  def region_encoder(
    self, batch_size: int = 64, devices: Sequence[jax.Device] = ()
  ) -> RegionEncoder:
    """See `RegionEncoder`."""
    return RegionEncoder(self.model, self.variables, batch_size, devices)

  def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
    """The text tower's outputs, not normalised, float32.

    Raises:
      ValueError: a text that the tokenizer refuses, or a model with fewer tokens than it.
    """
    tokens, limit = self.tokenizer.vocabulary_size, self.model.config.vocab_size
    if tokens > limit:
      raise ValueError(
        f"the tokenizer has {tokens} tokens, the model {limit}:"
        " this model cannot read text in CLIP's vocabulary"
      )
    tokens = self.tokenizer(texts)
    # Attention is causal and the row is read at its end mark: what comes after it is not needed.
    tokens = tokens[:, : int(tokens.argmax(-1).max()) + 1]
    encode = jax.jit(
      lambda variables, tokens: jnp.asarray(
        self.model.apply(variables, tokens, method=Clip.encode_text), "float32"
      )
    )
    batch_size = min(len(texts), _TEXT_BATCH)
    return map_batches(lambda batch: encode(self.variables, batch), tokens, batch_size)


def load_clip(
  path: str | os.PathLike, activation: str | None = None, half: bool | None = None
) -> FrozenClip:
  """Reads a CLIP: the folder of a CLIP run, or a file of published weights.

  A file is a TorchScript archive or a state dict of torch (.pt, .pth, .bin), .safetensors or .npz,
  with the names of OpenAI, open_clip or Hugging Face; its content decides.  Sizes follow from the
  shapes.  Computation is in float32.

  Args:
    path: folder or file.
    activation: "quick_gelu" or "gelu", a property of the weights.  None: what config.json (Hugging
      Face) or open_clip_config.json (open_clip) beside the file says, and without it quick_gelu,
      that of all OpenAI models; most of open_clip's own need "gelu".
    half: round weights to half precision as OpenAI's loader does with every file, so that results
      are those of its CPU users.  None: for torch's files with OpenAI's names.  The others' float32
      weights stay as they are; half-precision weights are exact in either case.

  Raises:
    CheckpointError: there is neither a file nor the folder of a CLIP run.
    ReadError: the file is damaged, or asks for more than arrays.
    ValueError: its arrays are not those of a CLIP; all that are missing or unknown are listed.
  """
  if Path(path).is_file():
    return _load_published(Path(path), activation, half)
  if activation is not None or half is not None:
    raise ValueError(f"{path} is no file: activation and half are for published weights.")
  return _load_run(os.fspath(path))


def _load_published(path: Path, activation: str | None, half: bool | None) -> FrozenClip:
  state = read_checkpoint(path)
  layout = layout_of(state)
  settings = read_settings(path, layout)
  is_original = layout == "openai" and settings is None and is_torch_archive(path)
  if settings is None and activation is None and not is_original:
    logging.warning(
      "%s has no config beside it: taken for an OpenAI model, with quick_gelu. If it is one of"
      " open_clip's own, pass activation='gelu'.",
      path,
    )
  settings = settings or Settings()
  try:
    state = to_openai(state)
    config = config_from_torch(
      state,
      activation or settings.activation or "quick_gelu",
      settings.vision_heads,
      settings.text_heads,
    )
    variables = params_from_torch(state, config, is_original if half is None else half)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  tokenizer = Tokenizer(config.context_length)
  return FrozenClip(Clip(config), variables, tokenizer)


def _load_run(path: str) -> FrozenClip:
  folder = epath.Path(path)
  for name in ("config.json", TOKENIZER_FILE):
    if not (folder / name).exists():
      raise CheckpointError(
        f"{path} has no {name}: expected the --workdir of a run with config.task='clip', or a file"
        " of published weights."
      )
  config = json.loads((folder / "config.json").read_text())
  if "clip" not in config:
    raise CheckpointError(
      f"{path}/config.json describes no CLIP run; of a downloaded model give the file of weights."
    )
  tokenizer = Tokenizer.from_dict(json.loads((folder / TOKENIZER_FILE).read_text()))
  model = make_clip(config["clip"], tokenizer.vocabulary_size)
  variables = jax.eval_shape(lambda key: init_clip(model, key), jax.random.key(0))
  expected = {
    "params": variables["params"],
    "model_state": {k: v for k, v in variables.items() if k != "params"},
  }
  restored = restore_variables(path, expected)
  return FrozenClip(model, {"params": restored["params"], **restored["model_state"]}, tokenizer)
