"""What other oracles say of a feed than the one that a protocol judges by; pure codecs."""
