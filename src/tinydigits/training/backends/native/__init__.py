"""Training steps in C: networks this small spend their time between the operations of a general library.

`kernels.c` is compiled for this machine on first use and kept in the user cache.
"""
