"""Public names of a package that are imported on first use: the one implementation, `hw_models.lazy`."""

from hw_models.lazy import attach

__all__ = ["attach"]
