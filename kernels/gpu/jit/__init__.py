"""Steps that the Triton kernels share, for Triton 3.6 to 3.9, compiled or interpreted."""
