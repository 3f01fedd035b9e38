#include "tessera/inference/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "tessera/core/error.h"

namespace tessera {
namespace {

// The value at which weights, added from the largest value on, reach `target`; the smallest value
// when they do not. Reorders the values.
template <class Weight>
float value_reaching(std::span<float> values, double target, const Weight& weight) {
  while (values.size() > 1) {
    const auto middle = static_cast<ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), values.begin() + middle, values.end(), std::greater<>());
    double above = 0;
    for (ptrdiff_t i = 0; i < middle; ++i) above += weight(values[static_cast<size_t>(i)]);
    if (above >= target) {
      values = values.first(static_cast<size_t>(middle));
    } else {
      target -= above;
      values = values.subspan(static_cast<size_t>(middle));
    }
  }
  return values.front();
}

// The smallest logit that may be chosen. Reorders the logits, all of which are finite.
float threshold(std::vector<float>& logits, float largest, const SamplingOptions& o) {
  float least = -std::numeric_limits<float>::infinity();
  if (o.top_k > 0 && o.top_k < static_cast<int64_t>(logits.size())) {
    least = value_reaching(logits, static_cast<double>(o.top_k), [](float) { return 1.0; });
    std::erase_if(logits, [least](float x) { return x < least; });
  }
  if (o.top_p < 1) {
    const auto weight = [&](float x) {
      return std::exp((static_cast<double>(x) - largest) / o.temperature);
    };
    double total = 0;
    for (const float x : logits) total += weight(x);
    least = std::max(least, value_reaching(logits, o.top_p * total, weight));
  }
  if (o.min_p > 0) {
    least = std::max(least, static_cast<float>(largest + o.temperature * std::log(o.min_p)));
  }
  return std::min(least, largest);
}

}  // namespace

int64_t sample(std::span<const float> logits, const SamplingOptions& options, double at) {
  std::vector<float> finite;
  std::copy_if(logits.begin(), logits.end(), std::back_inserter(finite),
               [](float x) { return std::isfinite(x); });
  check(!finite.empty(), "sample: none of {} logits is finite", logits.size());
  const float largest = *std::max_element(finite.begin(), finite.end());
  if (options.temperature <= 0) {
    return std::find(logits.begin(), logits.end(), largest) - logits.begin();
  }
  const float least = threshold(finite, largest, options);
  std::vector<std::pair<int64_t, double>> kept;
  double total = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!std::isfinite(logits[i]) || logits[i] < least) continue;
    total += std::exp((static_cast<double>(logits[i]) - largest) / options.temperature);
    kept.emplace_back(i, total);
  }
  const auto chosen = std::upper_bound(kept.begin(), kept.end(), at * total,
                                       [](double x, const auto& k) { return x < k.second; });
  return chosen == kept.end() ? kept.back().first : chosen->first;
}

void Sampler::see(std::span<const int64_t> ids) {
  for (const int64_t id : ids) {
    const auto at = static_cast<size_t>(id);
    if (at >= seen_.size()) seen_.resize(at + 1);
    seen_[at] = true;
  }
}

int64_t Sampler::next(std::span<const float> logits) {
  std::vector<float> penalised;
  if (options_.repetition_penalty != 1) {
    penalised.assign(logits.begin(), logits.end());
    const auto penalty = static_cast<float>(options_.repetition_penalty);
    for (size_t i = 0; i < std::min(seen_.size(), penalised.size()); ++i) {
      if (seen_[i]) penalised[i] *= penalised[i] < 0 ? penalty : 1 / penalty;
    }
    logits = penalised;
  }
  const int64_t id = sample(logits, options_, options_.temperature > 0 ? random_.uniform() : 0);
  see(std::span(&id, 1));
  return id;
}

}  // namespace tessera
