#include "tessera/attention/engines/dense.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/softmax.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"

#include <cmath>

namespace tessera {
namespace {

// (B, Hk, M, D) → (B, H, M, D): every key head is seen by its group of query heads.
Tensor repeat_heads(const Tensor& x, int64_t heads) {
  const int64_t group = heads / x.size(1);
  if (group == 1) return x;
  const Tensor wide = expand(unsqueeze(x, 2), {x.size(0), x.size(1), group, x.size(2), x.size(3)});
  return reshape(wide, {x.size(0), heads, x.size(2), x.size(3)});
}

// True where query i must not see key j.
Tensor future(int64_t queries, int64_t keys, Device device) {
  auto count = [&](int64_t n) {
    return arange(0, static_cast<double>(n), 1, {DType::i64, device});
  };
  const Tensor i = reshape(count(queries), {queries, 1});
  const Tensor j = reshape(count(keys), {1, keys});
  return gt(j, i + static_cast<double>(keys - queries));
}

}  // namespace

AttentionResult dense_attention_reference(const Tensor& query, const Tensor& key,
                                          const Tensor& value, const DenseOptions& options,
                                          const Tensor& bias) {
  const double scale =
      options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(query.size(-1)));
  const Tensor k = repeat_heads(key, query.size(1));
  const Tensor v = repeat_heads(value, query.size(1));
  Tensor scores = matmul(query, transpose(k, -1, -2)) * scale;
  if (bias.defined()) scores = scores + bias;
  if (options.causal) {
    scores = masked_fill(scores, future(query.size(2), key.size(2), query.device()), -INFINITY);
  }
  const Tensor lse = logsumexp(scores, {-1});
  return {matmul(softmax(scores, -1), v), is_half(lse.dtype()) ? lse.to(DType::f32) : lse};
}

}  // namespace tessera
