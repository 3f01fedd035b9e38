// Forward of the dense engine in halves on Hopper: all tiles up to the causal bound.
#include "tessera/attention/engines/hopper_forward.h"
#include "tessera/attention/engines/tensor_map.h"

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
  const auto map = [](const Tensor& x, int rows) {
    return cuda::tensor_map("dense_attention", x, rows);
  };
  const int heads = s.batch * s.heads, tiles = (s.queries + L::kRows - 1) / L::kRows;
  const int64_t bytes = int64_t{2} * (s.width + s.value_width) * s.keys / s.group;
  const HopperForward<Source> a{map(q, L::kRows),
                                map(k, C::kKeys),
                                map(v, C::kKeys),
                                map(out, 64),
                                {{s}},
                                cuda::data<float>(lse),
                                s.batch,
                                s.heads,
                                s.group,
                                s.queries,
                                static_cast<float>(s.scale),
                                static_cast<float>(s.scale) * kLog2e,
                                tiles,
                                section_of(bytes, heads)};
  cuda::launch("dense_attention", q.device(), hopper::forward_kernel<T, C, Source>,
               grid_of(int64_t{tiles} * heads), L::kThreads, L::kBytes, a);
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
