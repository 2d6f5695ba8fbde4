"""Finished runs side by side: statistics over seeds, tables and figures."""
