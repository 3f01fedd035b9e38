#include <cmath>

#include "tessera/attention/engines/decode.h"
#include "tessera/attention/engines/decode_cuda.h"
#include "tessera/attention/engines/dense.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

Tensor count(int64_t n, const Shape& shape, Device device) {
  return reshape(arange(0, static_cast<double>(n), 1, {DType::i64, device}), shape);
}

// i32 (B) or, undefined, `all` as i64 (B|1, 1, 1).
Tensor numbers(const Tensor& x, int64_t all, Device device) {
  if (!x.defined()) return full({1, 1, 1}, static_cast<double>(all), {DType::i64, device});
  return reshape(x.to(DType::i64), {x.size(0), 1, 1});
}

// Positions of the listed keys, i64 (B, Hk, 1, K); kNowhere for padding and past the end.
constexpr double kNowhere = 1 << 30;
Tensor listed(const DecodeOptions& options, int64_t batch, int64_t heads, const Tensor& lengths) {
  const Device device = options.selected.device();
  const Tensor list =
      views::expand(options.selected, {batch, heads, options.selected.size(2)}).to(DType::i64);
  const int64_t size = options.selected_size;
  const Tensor each =
      unsqueeze(list * static_cast<double>(size), 3) + count(size, {1, 1, 1, size}, device);
  const Tensor flat = reshape(each, {batch, heads, 1, list.size(2) * size});
  const Tensor nowhere = full({1, 1, 1, 1}, kNowhere, {DType::i64, device});
  return where(logical_or(lt(flat, 0), ge(flat, lengths)), nowhere, flat);
}

// Rows of x at positions (B, Hk, 1, K); any row for padding.
Tensor rows_at(const Tensor& x, const Tensor& positions) {
  const Tensor none = full({1, 1, 1, 1}, 0, {DType::i64, x.device()});
  const Tensor inside = where(ge(positions, static_cast<double>(x.size(2))), none, positions);
  const Tensor index = transpose(inside, 2, 3);
  return gather(x, 2, views::expand(index, {x.size(0), x.size(1), index.size(2), x.size(3)}));
}

}  // namespace

decode::Gathered decode::gather_keys(const Tensor& query, const Tensor& key, const Tensor& value,
                                     const DecodeOptions& options) {
  const int64_t batch = query.size(0), heads = query.size(1), n = query.size(2);
  const int64_t keys = key.size(2);
  const Device device = query.device();
  const Tensor lengths = numbers(options.lengths, keys, device);
  const Tensor added = numbers(options.added, n, device);
  const Tensor i = count(n, {1, 1, n}, device);
  Gathered g{key, value, lengths - added + i, count(keys, {1, 1, keys}, device), {}};
  const Tensor none = full({1, 1, 1}, 0, {DType::i64, device});
  g.seen = where(ge(i, added), none, options.causal ? g.query_position + 1.0 : lengths + i * 0.0);
  if (options.selected.defined() && keys > 0) {
    const Tensor positions = listed(options, batch, key.size(1), unsqueeze(lengths, 3));
    g.key = rows_at(key, positions);
    g.value = rows_at(value, positions);
    const Tensor wide = repeat_heads(positions, heads);
    g.key_position = reshape(wide, {batch, heads, wide.size(3)});
  }
  return g;
}

AttentionResult decode_attention_reference(const Tensor& query, const Tensor& key,
                                           const Tensor& value, const DecodeOptions& options) {
  const double scale =
      options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(query.size(3)));
  const decode::Gathered g = decode::gather_keys(query, key, value, options);
  const Tensor k = repeat_heads(g.key.to(query.dtype()), query.size(1));
  const Tensor v = repeat_heads(g.value.to(query.dtype()), query.size(1));
  const Tensor scores = matmul(query, transpose(k, -1, -2)) * scale;
  const AttentionOptions places{.query_positions = g.query_position.to(DType::i32),
                                .key_positions = g.key_position.to(DType::i32),
                                .score = options.score};
  const Tensor hidden = ge(unsqueeze(g.key_position, 2), unsqueeze(g.seen, 3));
  return attention_of_scores(apply_score(places, scores), hidden, v);
}

}  // namespace tessera
