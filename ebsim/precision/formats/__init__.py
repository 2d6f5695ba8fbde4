"""Number formats: pure functions from a tensor to its nearest or stochastically rounded values."""
