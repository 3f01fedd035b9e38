// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <span>

#include "tessera/core/random.h"

namespace tessera {

struct SamplingOptions {
  double temperature = 1;  // 0: the largest logit, the lowest id among equal ones
  int64_t top_k = 0;       // keep the k largest; 0: all
  double top_p = 1;        // keep the smallest sorted prefix that reaches this probability
};

// One id drawn from softmax(logits / temperature) restricted by top-k, then top-p (always at least
// one token). Throws when no logit is finite.
int64_t sample(std::span<const float> logits, const SamplingOptions& options, Generator& random);

}  // namespace tessera
