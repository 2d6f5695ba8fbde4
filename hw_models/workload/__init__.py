"""Networks as layers with exact MACs, and the three passes of training."""
