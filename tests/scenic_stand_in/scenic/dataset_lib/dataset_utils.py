import dataclasses
from typing import Any


@dataclasses.dataclass
class Dataset:
  train_iter: Any = None
  valid_iter: Any = None
  test_iter: Any = None
  meta_data: dict = dataclasses.field(default_factory=dict)
