"""Perpetual v2 (Curie): perps against pools of virtual tokens, liquidated by taking a position over."""
