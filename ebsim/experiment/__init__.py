"""The context that the methods of one experiment share, its training stages, and the result of a method."""
