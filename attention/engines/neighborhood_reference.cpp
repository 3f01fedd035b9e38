#include "tessera/attention/engines/dense.h"
#include "tessera/attention/engines/neighborhood.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

// (N, M), bool.
Tensor hidden_by(const WindowRule& rule, Device device) {
  const int queries = rule.queries(), keys = rule.keys();
  const Tensor hidden = empty({queries, keys}, {DType::boolean, {}});
  auto* to = hidden.data<bool>();
  for (int i = 0; i < queries; ++i) {
    for (int j = 0; j < keys; ++j) *to++ = !rule.visible(i, j);
  }
  return kernels::to_device(hidden, device);
}

}  // namespace

AttentionResult neighborhood_attention_reference(const Tensor& query, const Tensor& key,
                                                 const Tensor& value,
                                                 const NeighborhoodOptions& options) {
  const AttentionOptions o{.scale = options.scale, .score = options.score};
  const Tensor k = repeat_heads(key, query.size(1));
  const Tensor products = matmul(query, transpose(k, -1, -2)) * engine::scale_of(o, query);
  return attention_of_scores(apply_score(o, products), hidden_by(options.windows, query.device()),
                             repeat_heads(value, query.size(1)));
}

}  // namespace tessera
