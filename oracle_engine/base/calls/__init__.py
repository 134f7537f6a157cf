"""What may be read of the values of a call, and when: in transforms, graphs and traces, in checks, early, and again."""
