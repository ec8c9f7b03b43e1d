import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_clip

from rkd_jax.configs import common
from rkd_jax.frozen.clip import load_clip
from rkd_jax.models.detector import rcnn
from rkd_jax.runs.checkpoint import CheckpointError
from rkd_jax.runs.state import TrainState
from rkd_jax.train.tasks import initialize


@pytest.fixture(scope="module")
def clip_run(tmp_path_factory):
  return str(tiny_clip.write_run(tmp_path_factory.mktemp("clip")))


@pytest.fixture
def config(clip_run):
  """The tiny detector with the backbone of that CLIP."""
  c = tiny.get_config("unused")
  c.model.backbone.update(
    kind="clip_resnet",
    stage_blocks=tiny_clip.VISION_LAYERS[:2],
    width=tiny_clip.VISION_WIDTH,
  )
  c.model.pixel_mean, c.model.pixel_std = common.CLIP_PIXEL_MEAN, common.CLIP_PIXEL_STD
  c.init.backbone = clip_run
  return c


def _fresh(config) -> TrainState:
  init = jax.jit(rcnn.build(config).init)
  params = init(jax.random.key(0), *rcnn.dummy_inputs(config))["params"]
  return TrainState(step=jnp.zeros((), jnp.int32), params=params, model_state={}, opt_state=())


def test_the_backbone_starts_from_clip_and_the_rest_stays_fresh(config, clip_run):
  fresh = _fresh(config)
  state = initialize(config, fresh)
  tower, norms = (load_clip(clip_run).variables[k]["visual"] for k in ("params", "batch_stats"))
  backbone = dict(state.params["backbone"])
  assert set(backbone) == {
    *("conv1", "conv2", "conv3", "bn1", "bn2", "bn3"),
    *("layer1_0", "layer2_0"),
  }
  block = backbone["layer2_0"]
  np.testing.assert_array_equal(block["conv2"]["kernel"], tower["layer2_0"]["conv2"]["kernel"])
  np.testing.assert_array_equal(block["bn3"]["scale"], tower["layer2_0"]["bn3"]["scale"])
  np.testing.assert_array_equal(block["bn3"]["var"], norms["layer2_0"]["bn3"]["var"])
  rest, expected = dict(state.params), dict(fresh.params)
  rest.pop("backbone"), expected.pop("backbone")
  jax.tree.map(np.testing.assert_array_equal, rest, expected)


def test_nothing_to_start_from_keeps_the_fresh_state(config):
  config.init.backbone = ""
  fresh = _fresh(config)
  assert initialize(config, fresh) is fresh


def test_checkpoint_and_backbone_together_are_refused(config):
  config.init.checkpoint = "runs/base"
  with pytest.raises(ValueError, match="'runs/base' holds a backbone already"):
    initialize(config, _fresh(config))


def test_a_backbone_that_is_no_clip_tower_is_refused(config):
  config.model.backbone.kind = "resnet"
  with pytest.raises(ValueError, match=r"kind='resnet' cannot start .*, but 'clip_resnet' can"):
    initialize(config, _fresh(config))


def test_a_folder_that_is_no_clip_run_is_named(config, tmp_path):
  config.init.backbone = str(tmp_path)
  with pytest.raises(CheckpointError, match=r"has no config\.json"):
    initialize(config, _fresh(config))
