"""The parts of `compact`: graph -> live and needed channels -> sliced layers and a rewritten graph."""
