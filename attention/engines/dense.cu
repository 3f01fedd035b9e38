#include "tessera/attention/engines/dense_kernels.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/view.h"

namespace tessera {
namespace dense {

Sizes sizes_of(const Tensor& query, const Tensor& key, const Tensor& value,
               const AttentionOptions& options) {
  for (const Tensor* x : {&query, &key, &value}) {
    for (int64_t size : x->shape()) {
      check(size < int64_t{1} << 30, "dense_attention: {} is too long in one dimension",
            x->shape());
    }
  }
  auto narrow = [](int64_t n) { return static_cast<int>(n); };
  return {narrow(query.size(0)), narrow(query.size(1)),
          narrow(key.size(1)),   narrow(query.size(1) / key.size(1)),
          narrow(query.size(2)), narrow(key.size(2)),
          narrow(query.size(3)), narrow(value.size(3)),
          options.causal,        options.scale};
}

unsigned grid_of(int64_t count) {
  check(count < int64_t{1} << 31, "dense_attention: {} tiles are more than a launch takes", count);
  return static_cast<unsigned>(count);
}

namespace {

constexpr int64_t kChunk = 8;  // halves in 16 bytes
constexpr int64_t kWidest = 256;

int64_t rounded(int64_t width) {
  return (width + kChunk - 1) / kChunk * kChunk;
}

// Whether `next` lies beside `x` in the rows of one packed (B, N, ·) tensor.
bool follows(const Tensor& x, const Tensor& next) {
  return x.storage() == next.storage() && x.strides() == next.strides() && x.stride(3) == 1 &&
         x.stride(1) == x.size(3) && next.offset() == x.offset() + x.size(1) * x.size(3);
}

}  // namespace

DenseGradients empty_gradients(const Tensor& q, const Tensor& k, const Tensor& v) {
  const auto alone = [](const Tensor& x) {
    return engine::empty_heads(x.shape(), x.dtype(), x.device());
  };
  if (q.numel() == 0 || q.size(2) != k.size(2) || !follows(q, k) || !follows(k, v)) {
    return {alone(q), alone(k), alone(v)};
  }
  const int64_t heads = q.size(1) + 2 * k.size(1);
  const Tensor packed =
      engine::empty_heads({q.size(0), heads, q.size(2), q.size(3)}, q.dtype(), q.device());
  const auto part = [&](int64_t first, int64_t count) {
    return views::slice(packed, 1, first, first + count);
  };
  return {part(0, q.size(1)), part(q.size(1), k.size(1)), part(q.size(1) + k.size(1), k.size(1))};
}

Tensor in_chunks(const Tensor& x) {
  bool fits = x.size(3) % kChunk == 0 && x.stride(3) == 1 &&
              reinterpret_cast<uintptr_t>(x.raw_data()) % 16 == 0;
  for (int64_t d = 0; d < 3; ++d) fits = fits && (x.size(d) <= 1 || x.stride(d) % kChunk == 0);
  if (fits) return x;
  const Tensor wide = engine::empty_heads({x.size(0), x.size(1), x.size(2), rounded(x.size(3))},
                                          x.dtype(), x.device());
  kernels::copy(views::slice(wide, 3, 0, x.size(3)), x);
  if (wide.size(3) > x.size(3)) kernels::fill(views::slice(wide, 3, x.size(3), wide.size(3)), 0);
  return wide;
}

Tensor first_columns(const Tensor& x, int64_t width) {
  return x.size(3) == width ? x : views::slice(x, 3, 0, width);
}

}  // namespace dense

AttentionResult dense_forward_cuda(const Tensor& query, const Tensor& key, const Tensor& value,
                                   const AttentionOptions& options) {
  using namespace dense;
  const Shape rows{query.size(0), query.size(1), query.size(2)};
  const Tensor q = in_chunks(query), k = in_chunks(key), v = in_chunks(value);
  const Sizes s = sizes_of(q, k, v, options);
  const Tensor out =
      engine::empty_heads({rows[0], rows[1], rows[2], v.size(3)}, q.dtype(), q.device());
  const Tensor lse = empty(rows, {DType::f32, q.device()});
  (forward_fits_hopper(s, q, k, v) ? forward_hopper : forward_halves)(s, q, k, v, out, lse);
  return {first_columns(out, value.size(3)), lse};
}

DenseGradients dense_backward_cuda(const Tensor& query, const Tensor& key, const Tensor& value,
                                   const AttentionResult& forward, const Tensor& grad_output,
                                   const Tensor& grad_logsumexp, const AttentionOptions& options) {
  using namespace dense;
  const Tensor q = in_chunks(query), k = in_chunks(key), v = in_chunks(value);
  const Tensor out = in_chunks(forward.output), grad_out = in_chunks(grad_output);
  const Sizes s = sizes_of(q, k, v, options);
  const DenseGradients g = empty_gradients(q, k, v);
  const bool hopper = backward_fits_hopper(s, q, k, v, grad_out);
  (hopper ? backward_hopper : backward_halves)(s, q, k, v, out, forward.logsumexp, grad_out,
                                               grad_logsumexp, g);
  return {first_columns(g.query, query.size(3)), first_columns(g.key, key.size(3)),
          first_columns(g.value, value.size(3))};
}

}  // namespace tessera
