"""Aave v3: pools of reserves, one account a borrower, liquidated pair by pair of debt and collateral."""
