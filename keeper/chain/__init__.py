"""The world as messages: JSON-RPC, heads and reorgs, logs, pinned bulk reads, simulation."""
