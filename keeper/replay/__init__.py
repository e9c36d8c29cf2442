"""The same pipeline over what was taped, or over recorded prices: no chain, no clock, no key."""
