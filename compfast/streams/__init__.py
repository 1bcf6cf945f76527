"""Counter-based random streams and exact functions: the reference for C++ and Triton."""
