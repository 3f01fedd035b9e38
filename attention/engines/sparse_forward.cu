// Forward in halves over windows and lists of blocks.
#include "tessera/attention/engines/forward_kernel.h"

namespace tessera::dense {
namespace {

// Tiles of 128 queries where a block has as many, else of 64.
template <class T>
void run(const Sizes& s, const SparseTiles& keys, const Tensor& q, const Tensor& k, const Tensor& v,
         const Tensor& out, const Tensor& lse) {
  if (s.batch * s.heads == 0) return;
  const auto a = forward_arguments<T>(s, keys, q, k, v, out, lse);
  auto launch = [&]<class Large, class Small>() {
    if (keys.lists.counts == nullptr || keys.own_block >= 7) {
      launch_forward<Large>("attention", a, q.device());
    } else {
      launch_forward<Small>("attention", a, q.device());
    }
  };
  const int width = std::max(s.width, s.value_width);
  if (width <= 64) {
    launch.template
    operator()<ForwardShape<64, 4, 2, 64, 2, true>, ForwardShape<64, 4, 1, 64, 3, true>>();
  } else if (width <= 128) {
    launch.template
    operator()<ForwardShape<128, 4, 2, 64, 2, false>, ForwardShape<128, 4, 1, 64, 2, false>>();
  } else {
    launch.template
    operator()<ForwardShape<256, 8, 1, 32, 1, false>, ForwardShape<256, 4, 1, 32, 2, false>>();
  }
}

}  // namespace

void forward_sparse(const Sizes& s, const SparseTiles& keys, const Tensor& q, const Tensor& k,
                    const Tensor& v, const Tensor& out, const Tensor& lse) {
  if (q.dtype() == DType::bf16) {
    run<bfloat16>(s, keys, q, k, v, out, lse);
  } else {
    run<float16>(s, keys, q, k, v, out, lse);
  }
}

}  // namespace tessera::dense
