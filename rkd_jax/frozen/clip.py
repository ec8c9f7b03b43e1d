"""A trained CLIP, frozen: what the offline step and prediction need of it."""

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
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, UInt8

from rkd_jax.files.torch_reader import is_torch_archive, read_checkpoint
from rkd_jax.machine.batches import map_batches
from rkd_jax.machine.compilation import matmul_options
from rkd_jax.models.clip.model import Clip, init_clip, make_clip
from rkd_jax.models.clip.preprocess import normalize
from rkd_jax.models.clip.tokenizer import Tokenizer
from rkd_jax.runs.checkpoint import CheckpointError
from rkd_jax.runs.restore import restore_step
from rkd_jax.weights import clip as weights

TOKENIZER_FILE = "tokenizer.json"
_TEXT_BATCH = 128


@dataclasses.dataclass(frozen=True)
class FrozenClip:
  """Both towers with their weights, and the tokenizer they were trained with.

  `step` is that of the run's checkpoint, None of published weights.
  """

  model: Clip
  variables: Any
  tokenizer: Tokenizer
  step: int | None = None

  @property
  def image_size(self) -> int:
    return self.model.config.image_resolution

  @property
  def embedding_dim(self) -> int:
    return self.model.config.embed_dim

  def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
    """The text tower's outputs, not normalised, float32.

    Raises:
      ValueError: a text that the tokenizer refuses, or a model with fewer tokens than it.
    """
    known, limit = self.tokenizer.vocabulary_size, self.model.config.vocab_size
    if known > limit:
      raise ValueError(
        f"the tokenizer has {known} tokens, the model {limit}:"
        " this model cannot read text in CLIP's vocabulary"
      )
    tokens = self.tokenizer(texts)
    # Attention is causal and the row is read at its end mark: what comes after it is not needed.
    tokens = tokens[:, : int(tokens.argmax(-1).max()) + 1]

    @jax.jit
    def encode(variables, tokens):
      embeddings = self.model.apply(variables, tokens, method=Clip.encode_text)
      return jnp.asarray(embeddings, "float32")

    batch_size = min(len(texts), _TEXT_BATCH)
    return map_batches(lambda batch: encode(self.variables, batch), tokens, batch_size)


class RegionEncoder:
  """Embeds crops of side `image_size` with the image tower of a CLIP, which is compiled once.

  Args:
    batch_size: crops per call of the compiled function, rounded up to a multiple of the devices.
    devices: among which each batch is split; by default one.
  """

  def __init__(self, clip: FrozenClip, batch_size: int = 64, devices: Sequence[jax.Device] = ()):
    self.image_size, self._width = clip.image_size, clip.embedding_dim
    devices = devices or jax.local_devices()[:1]
    self._batch_size = -(-batch_size // len(devices)) * len(devices)
    mesh = Mesh(np.array(devices), ("crops",))
    self._variables = jax.device_put(clip.variables, NamedSharding(mesh, PartitionSpec()))
    self._split = NamedSharding(mesh, PartitionSpec("crops"))
    self._encode = jax.jit(
      lambda variables, images: jnp.asarray(
        clip.model.apply(variables, normalize(images), method=Clip.encode_image), "float32"
      ),
      compiler_options=matmul_options(devices[0].platform),
    )

  def embed(self, crops: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
    """Embeddings of the crops, float32, not normalised."""
    if len(crops) == 0:
      return np.zeros((0, self._width), np.float32)

    def encode(batch: np.ndarray) -> jax.Array:
      return self._encode(self._variables, jax.device_put(batch, self._split))

    return map_batches(encode, np.asarray(crops), self._batch_size)


def load_clip(path: str | os.PathLike, activation: str | None = None) -> FrozenClip:
  """Reads a CLIP: the folder of a CLIP run, or a file of published weights.

  A file is a TorchScript archive or a state dict of torch (.pt, .pth, .bin), .safetensors or .npz,
  with the names of OpenAI, open_clip or Hugging Face; its content decides.  No torch is needed.
  Sizes follow from the shapes.  Computation is in float32.  Weights of torch's files with OpenAI's
  names are rounded to half precision as OpenAI's loader does with every file, so that results are
  those of its CPU users; the others' float32 weights stay as they are.

  Args:
    activation: "quick_gelu" or "gelu", a property of the weights.  None: what config.json (Hugging
      Face) or open_clip_config.json (open_clip) beside the file says, and without it quick_gelu,
      that of all OpenAI models; most of open_clip's own need "gelu".

  Raises:
    CheckpointError: there is neither a file nor the folder of a CLIP run.
    ReadError: the file is damaged, or asks for more than arrays.
    ValueError: its arrays are not those of a CLIP; all that are missing or unknown are listed.
  """
  if Path(path).is_file():
    return _load_published(Path(path), activation)
  if activation is not None:
    raise ValueError(f"{path} is no file: activation is for published weights.")
  return _load_run(epath.Path(path))


def _load_published(path: Path, activation: str | None) -> FrozenClip:
  state = read_checkpoint(path)
  layout = weights.layout_of(state)
  settings = weights.read_settings(path, layout)
  is_original = layout == "openai" and settings is None and is_torch_archive(path)
  if settings is None and activation is None and not is_original:
    logging.warning(
      "%s has no config beside it: taken for an OpenAI model, with quick_gelu. If it is one of"
      " open_clip's own, pass activation='gelu'.",
      path,
    )
  settings = settings or weights.Settings()
  if activation is not None:
    settings = settings._replace(activation=activation)
  try:
    state = weights.to_openai(state)
    config = weights.config_from_torch(state, settings)
    variables = weights.params_from_torch(state, config, is_original)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  return FrozenClip(Clip(config), variables, Tokenizer(config.context_length))


def _load_run(folder: epath.Path) -> FrozenClip:
  for name in ("config.json", TOKENIZER_FILE):
    if not (folder / name).exists():
      raise CheckpointError(
        f"{folder} has no {name}: expected the --workdir of a run with config.task='clip', or a "
        "file of published weights."
      )
  config = json.loads((folder / "config.json").read_text())
  if "clip" not in config:
    raise CheckpointError(
      f"{folder}/config.json describes no CLIP run; of a downloaded model give the file of weights."
    )
  tokenizer = Tokenizer(**json.loads((folder / TOKENIZER_FILE).read_text()))
  model = make_clip(config["clip"], tokenizer.vocabulary_size)
  state = jax.eval_shape(lambda key: init_clip(model, key), jax.random.key(0))
  params = state.pop("params")
  step, restored = restore_step(os.fspath(folder), {"params": params, "model_state": state})
  variables = {"params": restored["params"], **restored["model_state"]}
  return FrozenClip(model, variables, tokenizer, step)
