"""Running sums of a softmax over the rows, and the law of their rounding."""
