// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tessera/core/random.h"

namespace tessera {

// Each restriction is a threshold on logits: equal logits stay or go together.
struct SamplingOptions {
  double temperature = 1;  // of softmax(logits / temperature); 0: the largest, lowest id of equals
  int64_t top_k = 0;       // as large as the k-th largest; 0: all
  double top_p = 1;        // of those left: the largest that together reach this probability
  double min_p = 0;        // at least so many times as probable as the largest (Nguyen et al. 2024)
  double repetition_penalty = 1;  // logits of ids seen before: divided by it, or multiplied when
                                  // negative (Keskar et al. 2019, CTRL); before all else
};

// The id at which the sum of probabilities, in the order of ids, passes `at` in [0, 1): softmax
// restricted by top-k, then top-p, then min-p, always at least one token. Logits that are not
// finite count as absent; throws when all are.
int64_t sample(std::span<const float> logits, const SamplingOptions& options, double at);

// The choices of one sequence: its own random stream, number i of which decides token i, and the
// ids that its text holds.
class Sampler {
 public:
  Sampler(const SamplingOptions& options, uint64_t seed) : options_(options), random_(seed) {}
  void see(std::span<const int64_t> ids);
  // Draws one id, and sees it.
  int64_t next(std::span<const float> logits);

 private:
  SamplingOptions options_;
  Generator random_;
  std::vector<bool> seen_;
};

}  // namespace tessera
