// Forward of the dense engine in halves on Hopper: all tiles up to the causal bound.
#include "tessera/attention/engines/hopper_forward.h"

namespace tessera::dense {
namespace {

struct Visible {
  Sizes sizes;
  __device__ Span operator()(int query) const { return {0, sizes.visible(query)}; }
};

template <class T, class C>
void run(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
         const Tensor& lse) {
  using L = HopperTile<C>;
  using Source = SpanSource<Visible, L::kRows, C::kKeys>;
  // Under a causal mask tiles differ in work, and dealing them out is good only for short heads.
  const bool dealt = !s.causal || s.queries <= (C::kWidth == 64 ? 4096 : 512);
  run_hopper_forward<T, C>("dense_attention", s, q, k, v, out, lse, Source{{s}}, dealt);
}

template <class T>
void run(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
         const Tensor& lse) {
  constexpr int kRows = HopperTile<HopperShape<64, 3>>::kRows;
  const int64_t blocks = int64_t{(s.queries + kRows - 1) / kRows} * s.batch * s.heads;
  if (std::max(s.width, s.value_width) > 64) {
    run<T, HopperShape<128, 2>>(s, q, k, v, out, lse);
  } else if (blocks < 2 * cuda::multiprocessors(q.device())) {
    run<T, HopperShape<64, 2>>(s, q, k, v, out, lse);
  } else {
    run<T, HopperShape<64, 3>>(s, q, k, v, out, lse);
  }
}

}  // namespace

bool forward_fits_hopper(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v) {
  const auto fits = [](const Tensor& x) { return cuda::fits_tensor_map(x); };
  return cuda::is_hopper(q.device()) && std::max(s.width, s.value_width) <= 128 && fits(q) &&
         fits(k) && fits(v);
}

void forward_hopper(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v,
                    const Tensor& out, const Tensor& lse) {
  if (q.dtype() == DType::bf16) {
    run<bfloat16>(s, q, k, v, out, lse);
  } else {
    run<float16>(s, q, k, v, out, lse);
  }
}

}  // namespace tessera::dense
