"""Planning: which act, how much of it, and whether it is worth its gas; pure, by kind of protocol."""
