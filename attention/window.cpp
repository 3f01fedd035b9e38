#include "tessera/attention/window.h"

#include "tessera/attention/engines/dense.h"

namespace tessera {
namespace {

TESSERA_REGISTER(Attention, WindowAttention, "window", "every token sees its neighbours",
                 "Beltagy et al. 2020; Child et al. 2019");

}  // namespace

AttentionResult WindowAttention::attend(const Tensor& q, const Tensor& k, const Tensor& v,
                                        const AttentionOptions& options, const AttentionContext&) {
  AttentionOptions o = options;
  o.left = window_;
  if (!o.causal) o.right = window_;
  return dense_attention(q, k, v, o);
}

}  // namespace tessera
