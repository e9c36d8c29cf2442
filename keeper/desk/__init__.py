"""Which rules decide, and in which order: one desk for each kind of protocol; pure."""
