#include "tessera/attention/engines/grid_scores.h"
#include "tessera/attention/engines/neighborhood_tiles.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"

namespace tessera {
namespace neighborhood {
namespace {

// Of the keys that `tile` queries of a line meet.
int longest_box(const AxisWindows& x, int tile) {
  const int64_t length = x.block > 0 ? int64_t{(tile + x.block - 2) / x.block} * x.step + x.window
                                     : int64_t{x.window} + tile + x.stride;
  return static_cast<int>(std::min<int64_t>(length, x.line_keys(0)));
}

}  // namespace

Plan plan_of(const WindowRule& rule) {
  Plan p;
  p.query_tiles = cut_grid(rule, false, kRows, kRows, 0);
  p.key_tiles = cut_grid(rule, true, kRows, kRows, 0);
  int lengths[kAxes];
  for (int a = 0; a < kAxes; ++a) lengths[a] = longest_box(rule.axis[a], p.query_tiles.tile[a]);
  p.fits = p.query_fields.fit(lengths) && p.key_fields.fit(p.key_tiles.tile);
  return p;
}

namespace {

constexpr int64_t kWidest = 128;

Problem problem_of(const Tensor& q, const Tensor& k, const Tensor& v,
                   const NeighborhoodOptions& options, TensorList& keep) {
  auto narrow = [](int64_t n) { return static_cast<int>(n); };
  const auto scale = static_cast<float>(options.scale);
  Problem p{options.windows,
            narrow(q.size(1)),
            narrow(k.size(1)),
            narrow(q.size(1) / k.size(1)),
            narrow(q.size(2)),
            narrow(k.size(2)),
            narrow(q.size(3)),
            narrow(v.size(3)),
            scale,
            scale * dense::kLog2e};
  if (options.score.is_identity()) return p;
  keep.push_back(kernels::contiguous(options.score.tables()[0]));
  const Tensor& table = keep.back();
  p.table = cuda::data<float>(table);
  p.per_head = table.size(0) == 1 ? 0 : table.stride(0);
  int stride = 1;
  for (int a = kAxes - 1; a >= 0; --a) {
    p.place[a] = stride;
    stride *= 2 * options.windows.axis[a].window - 1;
  }
  return p;
}

}  // namespace
}  // namespace neighborhood

bool neighborhood_on_tensor_cores(const Tensor& query, const Tensor& value,
                                  const NeighborhoodOptions& options, bool wants_table) {
  using namespace neighborhood;
  if (!is_half(query.dtype()) || query.size(3) > kWidest || value.size(3) > kWidest) return false;
  if (options.scale <= 0 || query.numel() == 0) return false;
  const Score& score = options.score;
  if (!score.is_identity()) {
    if (score.name() != GridBias::name) return false;
    const auto* bias = static_cast<const GridBias*>(score.kernels().functor);
    if (bias->windows != options.windows) return false;
    const Tensor& table = score.tables()[0];
    const int64_t width = std::max(query.size(3), value.size(3));
    const AxisWindows& last = options.windows.axis[kAxes - 1];
    if (wants_table && last.block > 0 && last.block != last.step) return false;
    if (wants_table && !table_fits(width, table.numel() / table.size(0), query.device())) {
      return false;
    }
  }
  return plan_of(options.windows).fits;
}

AttentionResult neighborhood_forward_cuda(const Tensor& query, const Tensor& key,
                                          const Tensor& value, const NeighborhoodOptions& options) {
  using namespace neighborhood;
  const Tensor q = dense::in_chunks(query), k = dense::in_chunks(key);
  const Tensor v = dense::in_chunks(value);
  const Shape rows{q.size(0), q.size(1), q.size(2)};
  const Tensor out =
      engine::empty_heads({rows[0], rows[1], rows[2], v.size(3)}, q.dtype(), q.device());
  const Tensor lse = empty(rows, {DType::f32, q.device()});
  TensorList keep;
  forward_halves(problem_of(q, k, v, options, keep), plan_of(options.windows), q, k, v, out, lse);
  count_score_entries(rows[0] * rows[1] * count_entries(options.windows));
  return {dense::first_columns(out, value.size(3)), lse};
}

NeighborhoodGradients neighborhood_backward_cuda(
    const Tensor& query, const Tensor& key, const Tensor& value, const AttentionResult& forward,
    const Tensor& grad_output, const Tensor& grad_logsumexp, const NeighborhoodOptions& options,
    bool wants_table) {
  using namespace neighborhood;
  const Tensor q = dense::in_chunks(query), k = dense::in_chunks(key);
  const Tensor v = dense::in_chunks(value), out = dense::in_chunks(forward.output);
  const Tensor grad_out = dense::in_chunks(grad_output);
  const DenseGradients g = dense::empty_gradients(q, k, v);
  Tensor table;
  if (wants_table) {
    const Shape& shape = options.score.tables()[0].shape();
    table = empty({shape[0], shape.numel() / shape[0]}, {DType::f32, q.device()});
  }
  TensorList keep;
  backward_halves(problem_of(q, k, v, options, keep), plan_of(options.windows), q, k, v, out,
                  forward.logsumexp, grad_out, grad_logsumexp, {g.query, g.key, g.value, table});
  if (wants_table) table = views::reshape(table, options.score.tables()[0].shape());
  return {dense::first_columns(g.query, query.size(3)), dense::first_columns(g.key, key.size(3)),
          dense::first_columns(g.value, value.size(3)), table};
}

}  // namespace tessera
