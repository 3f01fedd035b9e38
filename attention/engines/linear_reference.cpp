#include "tessera/attention/engines/linear.h"
#include "tessera/attention/engines/linear_pass.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/scan.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/triangle.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"

#include <cmath>

namespace tessera {
namespace {

// (B, Hk, N, D) → (B, H, N, D): every key head is seen by its group of query heads.
Tensor repeat_heads(const Tensor& x, int64_t heads) {
  const int64_t group = heads / x.size(1);
  if (group == 1) return x;
  const Tensor wide = expand(unsqueeze(x, 2), {x.size(0), x.size(1), group, x.size(2), x.size(3)});
  return reshape(wide, {x.size(0), heads, x.size(2), x.size(3)});
}

// G_t, (B, H, N).
Tensor sums_of_decay(const Tensor& log_decay, const Tensor& query, DType dtype) {
  const Shape shape{query.size(0), query.size(1), query.size(2)};
  if (!log_decay.defined()) return zeros(shape, {dtype, query.device()});
  const Tensor g = log_decay.to(dtype);
  return cumsum(g.rank() == 3 ? g : expand(reshape(g, {1, shape[1], 1}), shape), -1);
}

}  // namespace

LinearResult linear_attention_reference(const Tensor& query, const Tensor& key, const Tensor& value,
                                        const Tensor& log_decay, const Tensor& initial_state,
                                        const LinearOptions& options) {
  const DType dtype = query.dtype(), wide = linear_engine::state_dtype(dtype);
  const int64_t heads = query.size(1), n = query.size(2);
  const Tensor k = repeat_heads(key, heads);
  Tensor v = repeat_heads(value, heads);
  if (options.normalise) {
    v = concat({v, ones({v.size(0), heads, n, 1}, {dtype, v.device()})}, -1);
  }
  const Tensor sums = sums_of_decay(log_decay, query, wide);
  const Tensor later = eq(tril(ones({n, n}, {wide, query.device()})), 0.0);
  const Tensor between = masked_fill(unsqueeze(sums, -1) - unsqueeze(sums, -2), later, -INFINITY);
  const Tensor weights = matmul(query, transpose(k, -1, -2)) * exp(between).to(dtype);
  Tensor y = matmul(weights * options.scale, v);
  const Tensor whole = slice(sums, -1, std::max<int64_t>(0, n - 1));  // (B, H, 1) or nothing
  const Tensor to_end = unsqueeze(n == 0 ? sums : exp(whole - sums), -1);
  Tensor state = matmul(transpose(k.to(wide) * to_end, -1, -2), v.to(wide));
  if (initial_state.defined()) {
    const Tensor entering = initial_state.to(wide);
    const Tensor from_begin = unsqueeze(exp(sums), -1);
    y = y + (matmul(query.to(wide), entering) * from_begin * options.scale).to(dtype);
    state = state + (n == 0 ? entering : entering * unsqueeze(exp(whole), -1));
  }
  if (!options.normalise) return {y, state};
  const int64_t width = value.size(3);
  return {slice(y, -1, 0, width) / (slice(y, -1, width) + options.epsilon), state};
}

}  // namespace tessera
