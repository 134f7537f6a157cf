"""What a screen is, and what the product of a query with it tells of every row."""
