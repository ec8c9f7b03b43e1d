class BaseModel:
  def __init__(self, config, dataset_meta_data):
    self.config = self.default_flax_model_config() if config is None else config
    self.dataset_meta_data = dataset_meta_data
    self.flax_model = self.build_flax_model()
