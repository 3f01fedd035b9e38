// Backward over windows and lists of blocks of 128 in halves on Hopper.
#include "tessera/attention/engines/hopper_fused.h"
#include "tessera/core/deterministic.h"

namespace tessera::dense {
namespace {

template <class T>
void backward(const hopper_backward::Inputs<SparseTiles>& by_query,
              const hopper_backward::Inputs<SparseTiles>& by_key) {
  using namespace hopper_backward;
  if (std::max(by_key.s.width, by_key.s.value_width) <= 64) {
    if (!deterministic()) return run_fused<T>(by_key);
    run_keys<T, Shape<64, 64, 3>>(by_key);
    run_queries<T, Shape<64, 128, 3>>(by_query);
  } else {
    run_keys<T, Shape<128, 64, 3>>(by_key);
    run_queries<T, Shape<128, 64, 3>>(by_query);
  }
}

}  // namespace

void backward_sparse_hopper(const Sizes& s, const SparseTiles& keys, const SparseTiles& queries,
                            const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                            const Tensor& lse, const Tensor& grad_out, const Tensor& grad_lse,
                            const DenseGradients& grads) {
  const RowStatistics rows = row_statistics(s, out, lse, grad_out, grad_lse);
  const hopper_backward::Inputs<SparseTiles> by_query{s, keys, q, k, v, grad_out, rows, grads};
  const hopper_backward::Inputs<SparseTiles> by_key{s, queries, q, k, v, grad_out, rows, grads};
  if (q.dtype() == DType::bf16) {
    backward<bfloat16>(by_query, by_key);
  } else {
    backward<float16>(by_query, by_key);
  }
}

}  // namespace tessera::dense
