"""What holds for every evaluator: parts of the images, counted apart, add up to the whole."""

import pickle

import pytest


def check_shares_add_up(make, images):
  """`make()` gives an evaluator, `images` are what its `add` takes."""
  whole, *shares = (make() for _ in range(4))
  for number, image in enumerate(images):
    for evaluator in (whole, shares[number % 3]):
      evaluator.add(*image)
  first, *others = shares
  for other in others:
    first.merge(pickle.loads(pickle.dumps(other)))
  assert first.compute() == whole.compute()
  with pytest.raises(ValueError, match="was added twice"):
    first.merge(others[0])
