"""What a ledger costs on an accelerator: profiles, missing number formats, and pricing a finished run again."""
