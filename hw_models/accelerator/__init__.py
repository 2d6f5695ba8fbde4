"""An accelerator described as data: a TOML profile, checked, with the source and band of each constant."""
