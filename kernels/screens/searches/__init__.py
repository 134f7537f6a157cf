"""From a screen to the few rows that matter to each query, or to a sample of those that may."""
