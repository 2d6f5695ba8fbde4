"""Prices ledgers on an accelerator: profiles, missing number formats, and pricing a finished run again."""
