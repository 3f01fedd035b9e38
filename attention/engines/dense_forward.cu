// Forward of the dense engine in halves.
#include "tessera/attention/engines/forward_kernel.h"

namespace tessera::dense {
namespace {

template <class T>
void run(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
         const Tensor& lse) {
  if (s.batch * s.heads == 0) return;
  const auto a = forward_arguments<T>(s, AllTiles{}, q, k, v, out, lse);
  auto launch = [&]<class C>() { launch_forward<C>("dense_attention", a, q.device()); };
  const int width = std::max(s.width, s.value_width);
  if (width <= 64) {
    launch.template operator()<ForwardShape<64, 4, 2, 64, 2, true>>();
  } else if (width <= 128) {
    launch.template operator()<ForwardShape<128, 4, 2, 64, 2, false>>();
  } else {
    launch.template operator()<ForwardShape<256, 8, 1, 32, 1, false>>();
  }
}

}  // namespace

void forward_halves(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v,
                    const Tensor& out, const Tensor& lse) {
  if (q.dtype() == DType::bf16) {
    run<bfloat16>(s, q, k, v, out, lse);
  } else {
    run<float16>(s, q, k, v, out, lse);
  }
}

}  // namespace tessera::dense
