"""The kinds of screens: leading coordinates, codes of eight bits, and rows that are bytes themselves."""
