"""Region-based knowledge distillation for open-vocabulary detection, in JAX."""

__version__ = "0.1.0"
