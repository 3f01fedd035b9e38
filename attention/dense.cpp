#include "tessera/attention/dense.h"

#include "tessera/attention/engines/decode.h"
#include "tessera/attention/engines/dense.h"
#include "tessera/core/kernels/copy.h"

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
  DecodeOptions o{.scale = options.scale, .causal = options.causal};
  if (options.score.name() == "alibi") {
    o.slopes = kernels::cast(options.score.tables()[0].detach(), DType::f32);
  } else if (!options.score.is_identity()) {
    return {};
  }
  return decode_attention(q, cache, o);
}

}  // namespace tessera
