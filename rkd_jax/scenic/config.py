"""A config of rkd_jax, by its name, as Scenic's `app.run` takes it.

python -m rkd_jax.scenic.main --config=rkd_jax/scenic/config.py:coco/rkd --workdir=DIR
python -m rkd_jax.scenic.main --config=rkd_jax/scenic/config.py:demo:rkd --workdir=DIR
python -m rkd_jax.scenic.main --config=rkd_jax/scenic/config.py:my_config.py --workdir=DIR
"""

import ml_collections

from rkd_jax import configs


def get_config(name: str = "demo:base") -> ml_collections.ConfigDict:
  """The config with Scenic's `rng_seed`, which is its `seed`; ValueError if there is none."""
  config = configs.load(name)
  with config.unlocked():
    config.rng_seed = config.get_ref("seed")
  return config


def own_settings(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The config without what Scenic has added, as every other command knows it."""
  own = config.to_dict()
  del own["rng_seed"]
  return ml_collections.ConfigDict(own)
