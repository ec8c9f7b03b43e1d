from absl.flags import FlagHolder

from ml_collections import ConfigDict

def DEFINE_config_file(
  name: str, default: str | None = ..., *, lock_config: bool = ...
) -> FlagHolder[ConfigDict]: ...
