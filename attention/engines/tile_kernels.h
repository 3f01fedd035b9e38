// The generic tile on CUDA: softmax attention with any rule, any score functor and any source of
// tiles. Three kernels per functor and kind of product: the forward with an online softmax, one
// over tiles of queries for dQ and the tables of the score, one over tiles of keys for dK and dV.
// tiles.cu prepares their arguments.
#pragma once

#include "tessera/attention/engines/tile_halves.h"
#include "tessera/attention/engines/tile_plain.h"

namespace tessera::tile {

template <class F>
using Kernel = void (*)(TileArguments, F);

template <class F, class T>
Kernel<F> plain_kernel(TileLaunch::Kernel kernel) {
  if (kernel == TileLaunch::Kernel::forward) return forward_kernel<F, T>;
  if (kernel == TileLaunch::Kernel::over_queries) return over_queries_kernel<F, T>;
  return over_keys_kernel<F, T>;
}

template <class F>
Kernel<F> half_kernel(TileLaunch::Kernel kernel) {
  if (kernel == TileLaunch::Kernel::forward) return forward_halves_kernel<F>;
  if (kernel == TileLaunch::Kernel::over_queries) return over_queries_halves_kernel<F>;
  return over_keys_halves_kernel<F>;
}

// The kernels of a functor behind a plain function.
template <class F>
void launch(const void* functor, const TileLaunch& l) {
  using Products = TileLaunch::Products;
  const TileArguments& a = *l.arguments;
  const Kernel<F> kernel = l.products == Products::halves ? half_kernel<F>(l.kernel)
                           : l.products == Products::f64  ? plain_kernel<F, double>(l.kernel)
                                                          : plain_kernel<F, float>(l.kernel);
  const int64_t blocks = l.blocks * ((a.parts + a.parts_per_block - 1) / a.parts_per_block);
  check(blocks < int64_t{1} << 31, "{}: {} tiles are more than a launch takes", F::name, blocks);
  cuda::launch(F::name, l.device, kernel, static_cast<unsigned>(blocks),
               l.products == Products::halves ? kHalfThreads : kThreads, l.shared, a,
               *static_cast<const F*>(functor));
}

}  // namespace tessera::tile
