// How well a language model predicts a text.
#pragma once

#include <functional>

#include "tessera/models/model.h"

namespace tessera {

struct Tokenizer;
struct TokenSource;

struct PerplexityOptions {
  int64_t context = 0;  // tokens that the model sees; 0: as many as it can
  int64_t stride = 0;   // predictions of a window after the first; 0: half of the context
  int64_t batch = 4;    // windows at a time
};

struct Perplexity {
  int64_t tokens = 0;  // predicted ones
  int64_t bytes = 0;   // of their text
  double nats = 0;     // Σ −log p

  double per_token() const;  // exp(nats / tokens)
  double per_byte() const;   // exp(nats / bytes)
  double bits_per_byte() const;
};

// Over windows of `context` tokens that begin `stride` tokens apart: every token is predicted once,
// from at least context − stride tokens before it, except at the beginning. The first token is
// predicted where the vocabulary has a token that begins a text. The text is read piece by piece,
// logits exist for some rows at a time. `progress` hears of what is known so far. Throws when there
// is nothing to predict. The model should be in evaluation mode.
Perplexity perplexity(LanguageModel& model, const Tokenizer& tokenizer, TokenSource& text,
                      const PerplexityOptions& options,
                      const std::function<void(const Perplexity& so_far)>& progress = {});

}  // namespace tessera
