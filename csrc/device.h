// Functions that a GPU's threads call too, where nvcc compiles them, and how far it unrolls a loop.
#pragma once

#if defined(__CUDACC__)
#define COMPFAST_DEVICE __device__
#define COMPFAST_PRAGMA(text) _Pragma(#text)
#define COMPFAST_UNROLL(n) COMPFAST_PRAGMA(unroll n)
#else
#define COMPFAST_DEVICE
#define COMPFAST_UNROLL(n)
#endif
