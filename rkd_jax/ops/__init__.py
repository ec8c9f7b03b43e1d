"""Detection operations: pure functions of one image; batch them with `jax.vmap`."""
