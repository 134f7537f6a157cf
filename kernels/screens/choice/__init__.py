"""Which kind of screen suits the rows, and from when on it pays: measured with queries made of them."""
