"""The interfaces of Google's Scenic that rkd_jax.scenic uses, for tests where it is not there."""
