// Continuing texts.
#pragma once

#include <functional>
#include <vector>

#include "tessera/inference/sampler.h"
#include "tessera/models/model.h"

namespace tessera {

struct GenerateOptions {
  int64_t tokens = 200;
  SamplingOptions sampling = {};
  uint64_t seed = 1;      // of the first sequence; the others have the numbers that follow
  bool use_cache = true;  // off: the whole context is computed again for every token
  int64_t page_size = 0;  // keys and values lie in pages of so many tokens; 0: in one piece
  bool graph = true;      // on CUDA: a step is recorded once and replayed
};

// Where the time went: the prompts up to the first token, and the tokens after it.
struct GenerateTimes {
  int64_t prompt_tokens = 0;
  int64_t decoded_tokens = 0;  // of all sequences, without the first ones
  double prefill_seconds = 0;
  double decode_seconds = 0;

  void add(const GenerateTimes& other);
};

// Appends tokens to every prompt one by one and calls on_token for each, in the order of sequences;
// it returns false when a sequence is over. Each sequence becomes what it would be alone with its
// seed, up to the rounding of sums. Works incrementally with a cache where the model offers one.
// When the context is full, the older half is forgotten and the newer half computed again at the
// first positions. No prompt may be empty, nor hold ids outside of the vocabulary; of a longer one
// than the context the end is used. The model should be in evaluation mode.
GenerateTimes generate(LanguageModel& model, const std::vector<std::vector<int64_t>>& prompts,
                       const GenerateOptions& options,
                       const std::function<bool(size_t sequence, int64_t token)>& on_token);

// One sequence.
GenerateTimes generate(LanguageModel& model, std::vector<int64_t> prompt,
                       const GenerateOptions& options,
                       const std::function<bool(int64_t token)>& on_token);

}  // namespace tessera
