// Backward of the dense engine in halves on Hopper: all tiles up to the causal bound.
#include "tessera/attention/engines/hopper_fused.h"
#include "tessera/core/deterministic.h"

namespace tessera::dense {
namespace {

template <class T>
void run(const hopper_backward::Inputs<AllTiles>& in) {
  using namespace hopper_backward;
  if (std::max(in.s.width, in.s.value_width) <= 64) {
    if (!deterministic()) return run_fused<T>(in);
    run_keys<T, Shape<64, 96, 3>>(in);
    run_queries<T, Shape<64, 128, 3>>(in);
  } else {
    run_keys<T, Shape<128, 64, 3>>(in);
    run_queries<T, Shape<128, 64, 3>>(in);
  }
}

}  // namespace

bool backward_fits_hopper(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v,
                          const Tensor& grad_out) {
  const auto fits = [](const Tensor& x) { return cuda::fits_tensor_map(x); };
  return cuda::is_hopper(q.device()) && std::max(s.width, s.value_width) <= 128 && fits(q) &&
         fits(k) && fits(v) && fits(grad_out);
}

void backward_hopper(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v,
                     const Tensor& out, const Tensor& lse, const Tensor& grad_out,
                     const Tensor& grad_lse, const DenseGradients& grads) {
  const RowStatistics rows = row_statistics(s, out, lse, grad_out, grad_lse);
  const AllTiles source;
  const hopper_backward::Inputs<AllTiles> in{s, source, q, k, v, grad_out, rows, grads};
  if (q.dtype() == DType::bf16) {
    run<bfloat16>(in);
  } else {
    run<float16>(in);
  }
}

}  // namespace tessera::dense
