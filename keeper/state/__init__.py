"""What the keeper knows: exact integers in columns, their float64 twins, marks and oracle views; pure."""
