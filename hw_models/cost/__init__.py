"""Energy, time and traffic of training steps and of ledgers."""
