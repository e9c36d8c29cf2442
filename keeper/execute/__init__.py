"""From a Permit to a transaction on chain: the key, the fees, and a sender that survives a crash."""
