"""The command line: a file per group of commands, each a few lines over the packages below."""
