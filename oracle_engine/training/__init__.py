"""Training targets, losses and batches computed ahead."""
