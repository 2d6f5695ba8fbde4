"""Channel rules: what each kind of operation does to live and needed channels; `registry.RULES` is the table."""
