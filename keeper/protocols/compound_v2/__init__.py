"""Pools after Compound v2, in the words of Venus: a Comptroller, and a vToken for each asset."""
