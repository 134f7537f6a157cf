"""Products with blocks of rows in the matrix unit: logits, and the weighted sums that follow from them."""
