// What the tokens of a sequence see of it: everything, their block, their neighbours.
#pragma once

#include <string>

#include "tessera/attention/engines/engine.h"

namespace tessera {

// Token i sees, causally,
//   full            j ≤ i
//   block:b         ⌊j/b⌋ = ⌊i/b⌋, j ≤ i: nothing crosses the border of a block
//   window:w        i − w ≤ j ≤ i
//   block_prev:b    ⌊j/b⌋ ≥ ⌊i/b⌋ − 1, j ≤ i
// and otherwise the mirror image too: |i − j| ≤ w, |⌊i/b⌋ − ⌊j/b⌋| ≤ 1.
struct Span {
  enum class Kind { full, block, window, block_prev };
  Kind kind = Kind::full;
  int64_t size = 0;  // b or w

  bool operator==(const Span&) const = default;
  int64_t first_key(int64_t token) const;  // the earliest token that `token` sees
  int64_t entries(int64_t tokens) const;   // causal score entries of a head
  int64_t memory() const;  // tokens that a cache must keep at most; −1: all of them
};

// "full", "block:64", "window:64", "block_prev:64"; errors of anything else begin with `user`.
Span span_from_text(std::string_view user, const std::string& text);
std::string to_string(const Span& span);

// As dense_attention (engines/dense.h) over a span, in time and memory that follow its entries;
// query, key and value have as many tokens. Of `options`: causal, scale, key_lengths and a score
// that depends on distances. Whole blocks are views: nothing is copied.
AttentionResult span_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                               const Span& span, const AttentionOptions& options);

// The same, causal, of the newest tokens over the newest keys, of which the first is token `first`
// of the sequence and no later than what the queries see.
AttentionResult span_attention_from(int64_t first, const Tensor& query, const Tensor& key,
                                    const Tensor& value, const Span& span,
                                    const AttentionOptions& options);

}  // namespace tessera
