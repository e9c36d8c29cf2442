"""Morpho Blue: markets of one collateral and one loan token, and pre-liquidation where an owner allows it."""
