#include "tessera/attention/dense.h"

#include "tessera/attention/engines/decode.h"
#include "tessera/attention/engines/dense.h"

namespace tessera {
namespace {

TESSERA_REGISTER(Attention, DenseAttentionLayer, "dense", "every token sees every (earlier) token",
                 "Vaswani et al. 2017");

}  // namespace

AttentionResult DenseAttentionLayer::attend(const Tensor& q, const Tensor& k, const Tensor& v,
                                            const AttentionOptions& options,
                                            const AttentionContext&) {
  return dense_attention(q, k, v, options);
}

AttentionResult DenseAttentionLayer::decode(const Tensor& q, const KvCache& cache,
                                            const AttentionOptions& options,
                                            const AttentionContext&) {
  return decode_attention(
      q, cache, {.scale = options.scale, .causal = options.causal, .score = options.score});
}

}  // namespace tessera
