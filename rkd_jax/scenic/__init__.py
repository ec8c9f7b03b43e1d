"""RKD as a project of Google's Scenic; docs/scenic.md says how to run it.

Importing it without Scenic raises an ImportError that says how to get it.
"""

from rkd_jax.machine.scenic import import_from_scenic

import_from_scenic("scenic.model_lib.base_models.base_model", "rkd_jax.scenic")
