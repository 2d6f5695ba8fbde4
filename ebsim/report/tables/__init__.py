"""The report's tables, each a function of a loaded run."""
