"""Networks as tables of layers with exact MACs, and the three contractions (passes) of training each layer."""
