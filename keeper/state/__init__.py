"""What the keeper knows: exact integers in columns, and their float64 twins; pure."""
