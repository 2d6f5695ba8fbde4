"""Traces a network into torch.fx graphs in which every value has a known shape."""
