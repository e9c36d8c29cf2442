"""Other protocols on a throw-away chain: their real contracts, deployed, filled with accounts and moved."""
