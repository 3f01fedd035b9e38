#include "tessera/inference/sampler.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tessera/core/error.h"

namespace tessera {
namespace {

struct Candidate {
  int64_t id;
  double logit;
  double probability = 0;
};

bool before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// Largest logits first; only the first k in order.
void keep_top_k(std::vector<Candidate>& list, int64_t k) {
  const auto count = static_cast<ptrdiff_t>(list.size());
  const ptrdiff_t kept = k > 0 ? std::min<ptrdiff_t>(k, count) : count;
  std::partial_sort(list.begin(), list.begin() + kept, list.end(), before);
  list.resize(static_cast<size_t>(kept));
}

void keep_top_p(std::vector<Candidate>& list, double p) {
  double total = 0;
  for (size_t i = 0; i < list.size(); ++i) {
    total += list[i].probability;
    if (total >= p) {
      list.resize(i + 1);
      return;
    }
  }
}

double normalise(std::vector<Candidate>& list, double temperature) {
  double total = 0;
  for (Candidate& c : list) {
    c.probability = std::exp((c.logit - list.front().logit) / temperature);
    total += c.probability;
  }
  for (Candidate& c : list) c.probability /= total;
  return total;
}

}  // namespace

int64_t sample(std::span<const float> logits, const SamplingOptions& options, Generator& random) {
  std::vector<Candidate> list;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isfinite(logits[i])) list.push_back({static_cast<int64_t>(i), logits[i]});
  }
  check(!list.empty(), "sample: none of {} logits is finite", logits.size());
  if (options.temperature <= 0) return std::min_element(list.begin(), list.end(), before)->id;
  keep_top_k(list, options.top_k);
  normalise(list, options.temperature);
  if (options.top_p < 1) keep_top_p(list, options.top_p);
  double kept = 0;
  for (const Candidate& c : list) kept += c.probability;
  double at = random.uniform() * kept;
  for (const Candidate& c : list) {
    at -= c.probability;
    if (at < 0) return c.id;
  }
  return list.back().id;
}

}  // namespace tessera
