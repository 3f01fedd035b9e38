#include "tessera/attention/centroids.h"

#include <cmath>

#include "tessera/autograd/custom.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/einsum.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/embedding.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/norm.h"
#include "tessera/autograd/ops/sort.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"

namespace tessera {
namespace {

constexpr double kNormEpsilon = 1e-6;
constexpr double kCountEpsilon = 1e-5;
constexpr int kRounds = 10;

// x / ‖x‖ along the last dimension.
Tensor unit(const Tensor& x) {
  return rms_norm(x, {}, 1e-20) * (1 / std::sqrt(static_cast<double>(x.size(-1))));
}

void assign(const Tensor& buffer, const Tensor& values) {
  kernels::copy(buffer, values);
  buffer.bump_version();
}

// Sums and counts of the points near each centroid: (H, C, d) and (H, C).
struct Gathered {
  Tensor sum, count;
};

Gathered gathered(const Tensor& points, const Tensor& nearest, const Tensor& hidden,
                  int64_t clusters) {
  Tensor z = one_hot(nearest, clusters, points.dtype());  // (B, H, N, C)
  if (hidden.defined()) z = masked_fill(z, unsqueeze(hidden, -1), 0);
  return {einsum("b h n c, b h n d -> h c d", z, points), sum(z, {0, 2})};
}

// The mean square of x over the points that count.
Tensor mean_square(const Tensor& x, const Tensor& hidden) {
  const Tensor square_sum =
      sum(square(hidden.defined() ? masked_fill(x, unsqueeze(hidden, -1), 0) : x));
  const auto all = static_cast<double>(x.numel());
  if (!hidden.defined()) return square_sum * (1 / all);
  const Tensor there = sum(logical_not(hidden).to(x.dtype()));  // tokens, over the batch
  return square_sum / (there * static_cast<double>(x.size(1) * x.size(3)));
}

}  // namespace

Centroids::Centroids(const CentroidConfig& config, int64_t heads, int64_t head_dim) : c_(config) {
  const Tensor first = layer_norm(randn({heads, c_.clusters, head_dim}), {}, {}, kNormEpsilon);
  if (learned()) {
    centroids_ = parameter(first);
  } else if (c_.centroid_rule == "ema") {
    centroids_ = first;
    count_ = zeros({heads, c_.clusters});
    sum_ = kernels::clone(first);
  } else {
    centroids_ = unit(first);
    batches_ = zeros({1});
  }
}

void Centroids::members(Members& m) {
  if (learned()) {
    m("centroids", centroids_);
  } else {
    m.buffer("centroids", centroids_);
  }
  m.buffer("ema_count", count_);
  m.buffer("ema_sum", sum_);
  m.buffer("batches", batches_);
}

const Tensor& Centroids::current() const {
  return recomputing() && before_.defined() ? before_ : centroids_;
}

Tensor Centroids::points(const Tensor& x) const {
  const Tensor p = x.to(centroids_.dtype());
  return c_.centroid_rule == "unit" ? p * (1 / std::sqrt(static_cast<double>(x.size(-1)))) : p;
}

// The host looks once whether M has ever moved: restored centroids are kept.
void Centroids::begin(const Tensor& points, const Tensor& hidden) {
  if (!training() || recomputing() || learned()) return;
  const NoGrad off;
  if (batches_.defined() && !started_) {
    if (batches_.item() == 0) k_means(points.detach(), hidden);
    started_ = true;
  }
  before_ = kernels::clone(centroids_);
}

void Centroids::k_means(const Tensor& points, const Tensor& hidden) {
  const int64_t heads = points.size(1), tokens = points.size(0) * points.size(2);
  const Tensor rows = reshape(transpose(points, 0, 1), {heads, tokens, points.size(3)});
  Tensor chance = rand({heads, tokens}, DType::f32, points.device());
  if (hidden.defined()) {
    chance = masked_fill(chance, reshape(transpose(hidden, 0, 1), {1, tokens}), -1);
  }
  const int64_t some = std::min(c_.clusters, tokens);
  const Tensor chosen = unsqueeze(topk(chance, some, -1).indices, -1);
  const Tensor first = gather(rows, 1, expand(chosen, {heads, some, points.size(3)}));
  assign(centroids_, concat({first, slice(centroids_, 1, some)}, 1));
  for (int round = 0; round < kRounds; ++round) {
    const Gathered g = gathered(points, argmax(nearness(points, hidden), 2), hidden, c_.clusters);
    assign(centroids_, where(gt(unsqueeze(g.count, -1), 0), unit(g.sum), centroids_));
  }
}

Tensor Centroids::nearness(const Tensor& points, const Tensor& hidden) const {
  const NoGrad off;
  const Tensor s = matmul(unsqueeze(current().detach(), 0), transpose(points.detach(), 2, 3));
  return hidden.defined() ? masked_fill(s, unsqueeze(hidden, 2), -INFINITY) : s;
}

namespace {

Tensor rows_of(const Tensor& centroids, const Tensor& nearest) {
  const int64_t heads = centroids.size(0), clusters = centroids.size(1);
  const Tensor first = arange(0, static_cast<double>(heads), 1, {DType::i64, nearest.device()}) *
                       static_cast<double>(clusters);
  return embedding(flatten(centroids, 0, 1), nearest + reshape(first, {1, heads, 1}));
}

}  // namespace

Tensor Centroids::distance(const Tensor& points, const Tensor& nearest,
                           const Tensor& hidden) const {
  return mean_square(points - stop_gradient(rows_of(current(), nearest)), hidden);
}

Tensor Centroids::codebook_distance(const Tensor& points, const Tensor& nearest,
                                    const Tensor& hidden) const {
  return mean_square(stop_gradient(points) - rows_of(centroids_, nearest), hidden);
}

void Centroids::learn(const Tensor& points, const Tensor& nearest, const Tensor& hidden) {
  if (!training() || recomputing() || learned()) return;
  const NoGrad off;
  const double step = 1 - c_.decay;
  const Gathered g = gathered(points.detach(), nearest, hidden, c_.clusters);
  if (batches_.defined()) {
    const Tensor mean = where(gt(unsqueeze(g.count, -1), 0), unit(g.sum), centroids_);
    assign(centroids_, centroids_ * c_.decay + mean * step);
    assign(batches_, batches_ + 1);
    return;
  }
  assign(count_, count_ * c_.decay + g.count * step);
  assign(sum_, sum_ * c_.decay + g.sum * step);
  const Tensor total = sum(count_, {1}, true);
  const Tensor smoothed =
      (count_ + kCountEpsilon) / (total + static_cast<double>(c_.clusters) * kCountEpsilon) * total;
  assign(centroids_, sum_ / unsqueeze(smoothed, -1));
}

}  // namespace tessera
