"""What each kind of batch takes, from the config."""

from rkd_jax.configs import common
from rkd_jax.inputs import plan


def test_image_steps_may_read_another_data_set():
  data = common.detector_data()
  data.update(dir="a", name="lvis_ovd/rkd")
  assert plan.place(data, "image") == ("a", "lvis_ovd/rkd", "train")
  data.image.name = "imagenet_lvis/rkd"
  assert plan.place(data, "image") == ("a", "imagenet_lvis/rkd", "train")
  data.image.dir = "b"
  assert plan.place(data, "image") == ("b", "imagenet_lvis/rkd", "train")
  assert plan.place(data, "box") == ("a", "lvis_ovd/rkd", "train")
  assert plan.place(data, "eval") == ("a", "lvis_ovd/rkd", "validation")
