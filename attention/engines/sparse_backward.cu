// Backward in halves over windows and lists of blocks.
#include "tessera/attention/engines/backward_kernels.h"

namespace tessera::dense {
namespace {

bool is_small(const SparseTiles& tiles) {  // too small for 128 rows of its own
  return tiles.lists.counts != nullptr && tiles.own_block < 7;
}

template <class C, bool kValues, bool kKeys, class T>
void of_keys(const BackwardArguments<T, SparseTiles>& a, Device device) {
  run_keys<C, kValues, kKeys>("attention", a, device);
}
template <class Large, class Small, class T>
void of_both(const BackwardArguments<T, SparseTiles>& a, Device device) {
  if (is_small(a.source)) {
    of_keys<Small, true, true>(a, device);
  } else {
    of_keys<Large, true, true>(a, device);
  }
}
template <class Large, class Small, class T>
void of_queries(const BackwardArguments<T, SparseTiles>& a, Device device) {
  if (is_small(a.source)) {
    run_queries<Small>("attention", a, device);
  } else {
    run_queries<Large>("attention", a, device);
  }
}

template <class T>
void run(BackwardArguments<T, SparseTiles> a, const SparseTiles& keys, const SparseTiles& queries,
         Device device) {
  BackwardArguments<T, SparseTiles> by_query = a;
  a.source = queries;
  by_query.source = keys;
  const int width = std::max(a.sizes.width, a.sizes.value_width);
  if (width <= 64) {
    using Large = BackwardShape<64, 4, 2, 64, true, 2>;
    using Small = BackwardShape<64, 4, 1, 64, true, 3>;
    of_both<Large, Small>(a, device);
    of_queries<Large, Small>(by_query, device);
  } else if (width <= 128) {
    using Large = BackwardShape<128, 8, 1, 64, true, 1>;
    using Small = BackwardShape<128, 4, 1, 64, true, 2>;
    of_both<Large, Small>(a, device);
    of_queries<Large, Small>(by_query, device);
  } else {
    using C = BackwardShape<256, 4, 1, 32, false, 1>;
    of_keys<C, true, false>(a, device);
    of_keys<C, false, true>(a, device);
    of_queries<C, C>(by_query, device);
  }
}

}  // namespace

void backward_sparse(const Sizes& s, const SparseTiles& keys, const SparseTiles& queries,
                     const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                     const Tensor& lse, const Tensor& grad_out, const Tensor& grad_lse,
                     const DenseGradients& grads) {
  const RowStatistics rows = row_statistics(s, out, lse, grad_out, grad_lse);
  if (q.dtype() == DType::bf16) {
    run(backward_arguments<bfloat16>(s, keys, rows, q, k, v, grad_out, grads), keys, queries,
        q.device());
  } else {
    run(backward_arguments<float16>(s, keys, rows, q, k, v, grad_out, grads), keys, queries,
        q.device());
  }
}

}  // namespace tessera::dense
