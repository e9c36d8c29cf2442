"""The slow confirmation: whether the evidence on chain supports what the fast trigger suspected; pure."""
