"""The parts of `compact`: traced graph -> live and needed channels -> sliced weights and a rewritten graph."""
