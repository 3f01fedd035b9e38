#include "tessera/nn/permutation.h"

#include <cmath>
#include <limits>

#include "tessera/autograd/custom.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/sort.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"
#include "tessera/nn/init.h"

namespace tessera {
namespace {

// Σ −p ln(p + 1e-6).
Tensor entropy(const Tensor& p) {
  return -sum(p * log(p + 1e-6));
}

double between(double from, double to, double share) {
  return from + (to - from) * share;
}

}  // namespace

Tensor sinkhorn(const Tensor& scores, int64_t iterations) {
  Tensor l = scores;
  for (int64_t i = 0; i < iterations; ++i) {
    l = l - logsumexp(l, {-1}, true);
    l = l - logsumexp(l, {-2}, true);
  }
  return l;
}

// Rows are assigned one after another along the shortest augmenting path; u and v are the prices of
// rows and columns that keep every reduced cost ≥ 0. Row and column 0 are stand-ins.
std::vector<int64_t> best_assignment(std::span<const double> scores, int64_t n) {
  const auto size = static_cast<size_t>(n);
  check(scores.size() == size * size, "best_assignment: {} scores are no square of {}",
        scores.size(), n);
  std::vector<double> u(size + 1), v(size + 1);
  std::vector<size_t> row_of(size + 1), way(size + 1);
  for (size_t i = 1; i <= size; ++i) {
    row_of[0] = i;
    size_t column = 0;
    std::vector<double> least(size + 1, std::numeric_limits<double>::infinity());
    std::vector<bool> used(size + 1);
    do {
      used[column] = true;
      const size_t row = row_of[column];
      double delta = std::numeric_limits<double>::infinity();
      size_t next = 0;
      for (size_t j = 1; j <= size; ++j) {
        if (used[j]) continue;
        const double cost = -scores[(row - 1) * size + j - 1] - u[row] - v[j];
        if (cost < least[j]) {
          least[j] = cost;
          way[j] = column;
        }
        if (least[j] < delta) {
          delta = least[j];
          next = j;
        }
      }
      check(next != 0, "best_assignment: the scores are not finite");
      for (size_t j = 0; j <= size; ++j) {
        if (used[j]) {
          u[row_of[j]] += delta;
          v[j] -= delta;
        } else {
          least[j] -= delta;
        }
      }
      column = next;
    } while (row_of[column] != 0);
    for (; column != 0; column = way[column]) row_of[column] = row_of[way[column]];
  }
  std::vector<int64_t> columns(size);
  for (size_t j = 1; j <= size; ++j) columns[row_of[j] - 1] = static_cast<int64_t>(j) - 1;
  return columns;
}

PermutationSearch::PermutationSearch(const SearchConfig& c, int64_t experts, int64_t instances)
    : omega(parameter(init::uniform({instances, experts, experts}, 0.05))),
      soft(zeros({instances, experts, experts})),
      c_(c) {}

bool PermutationSearch::searching(const LayerContext& context) const {
  return training() && context.step < c_.steps;
}

Tensor PermutationSearch::operator()(const LayerContext& context) {
  if (!searching(context)) return one_hot(columns(), omega.size(1), DType::f64);
  const Tensor p = soft_permutation(context);
  if (!recomputing()) {
    NoGrad off;
    kernels::copy(soft, p.detach());
    soft.bump_version();
  }
  const Tensor rows = p / sum(p, {-1}, true);
  const double weight = c_.entropy / static_cast<double>(omega.size(0));
  if (c_.entropy > 0) context.add_loss((entropy(p) + entropy(rows)) * weight);
  return p;
}

Tensor PermutationSearch::soft_permutation(const LayerContext& context) const {
  const double share = static_cast<double>(context.step) / static_cast<double>(c_.steps);
  const double temperature = std::pow(10.0, between(-3, -7, share));
  Tensor scores = omega.to(DType::f64);
  if (c_.noise > 0) {
    const Tensor uniform = rand(scores.shape(), DType::f64, scores.device());
    scores = scores - log(-log(uniform + 1e-20) + 1e-20) * c_.noise;
  }
  return exp(sinkhorn(scores / temperature, static_cast<int64_t>(between(20, 150, share))));
}

Tensor PermutationSearch::columns() const {
  const int64_t m = soft.size(0), n = soft.size(1);
  const std::vector<double> scores = soft.to_vector<double>();
  std::vector<int64_t> list;
  for (int64_t i = 0; i < m; ++i) {
    const auto at =
        std::span(scores).subspan(static_cast<size_t>(i * n * n), static_cast<size_t>(n * n));
    bool any = false;
    for (const double s : at) any = any || s != 0;
    const std::vector<int64_t> best = any ? best_assignment(at, n) : std::vector<int64_t>();
    for (int64_t j = 0; j < n; ++j) list.push_back(any ? best[static_cast<size_t>(j)] : j);
  }
  return from_values(list, {m, n}).to(soft.device());
}

void PermutationSearch::members(Members& m) {
  m("omega", omega);
  m.buffer("soft", soft);
}

}  // namespace tessera
