// TESSERA_HD stands in front of every function that also runs on a GPU. TESSERA_INLINE is the same
// for the small functions that loops are made of: one call left in the body of a loop, and it is no
// longer vectorised.
#pragma once

#ifdef __CUDACC__
#define TESSERA_HD __host__ __device__
#else
#define TESSERA_HD
#endif
#define TESSERA_INLINE TESSERA_HD __attribute__((always_inline)) inline
