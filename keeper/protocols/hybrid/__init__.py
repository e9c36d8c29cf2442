"""HybridMargin, the reference protocol: a slope instead of a liquidation cliff."""
