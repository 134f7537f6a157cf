"""Tools for those who change the kernels or launch configurations: a compile gate and a tuner."""
