"""A liquidation keeper: fast off-chain risk, confirmed on chain, carried out in small steps."""

__version__ = "0.1.0"
