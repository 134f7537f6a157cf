"""The training demonstration: one network on three targets, its report and its figure."""
