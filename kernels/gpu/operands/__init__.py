"""What the Triton kernels read of rows and queries, in the numbers that they multiply."""
