// Continuing a text.
#pragma once

#include <functional>
#include <vector>

#include "tessera/inference/sampler.h"
#include "tessera/models/model.h"

namespace tessera {

struct GenerateOptions {
  int64_t tokens = 200;
  SamplingOptions sampling = {};
  uint64_t seed = 1;
  bool use_cache = true;  // off: the whole context is computed again for every token
};

// Appends tokens to the prompt one by one and calls on_token for each; it returns false to stop.
// Works incrementally with a cache where the model offers one. When the context is full, the older
// half is forgotten and the newer half computed again at the first positions. The prompt must not
// be empty; of a longer one than the context the end is used. The model should be in evaluation
// mode.
void generate(LanguageModel& model, std::vector<int64_t> prompt, const GenerateOptions& options,
              const std::function<bool(int64_t token)>& on_token);

}  // namespace tessera
