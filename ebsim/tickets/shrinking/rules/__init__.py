"""What every kind of operation does to channels; `registry.RULES` is the table of all of them."""
