"""One rule per kind of operation: which channels it can make non-zero, which it needs, and how it is rewritten."""
