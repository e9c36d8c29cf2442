"""One adapter a protocol, each a pure codec; adapters never import one another."""
