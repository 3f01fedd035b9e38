// Long token streams and the windows that a language model trains on.
#pragma once

#include <cstdint>
#include <span>
#include <variant>
#include <vector>

#include "tessera/data/dataset.h"
#include "tessera/data/tokenizer.h"

namespace tessera {

// Token ids in the smallest type that holds the vocabulary: u8, u16 or i32.
class TokenStream {
 public:
  explicit TokenStream(int64_t vocabulary);
  void append(std::span<const int64_t> ids);  // throws Error for an id outside the vocabulary
  int64_t size() const;
  void read(int64_t at, std::span<int64_t> out) const;  // out.size() ids from `at`
  TokenStream slice(int64_t begin, int64_t end) const;

 private:
  int64_t vocabulary_;
  std::variant<std::vector<uint8_t>, std::vector<uint16_t>, std::vector<int32_t>> ids_;
};

// A tokenizer with what it made of each split.
struct Corpus {
  std::unique_ptr<Tokenizer> tokenizer;
  TokenStream train, validation, test;
};

// Windows of T = context tokens: "tokens" s[i … i+T) and "targets" s[i+1 … i+T]. Training windows
// begin at every offset (N − T of them), those of validation and test do not overlap ((N − 1) / T).
class WindowDataset : public Dataset {
 public:
  DataInfo info() const override;
  int64_t size(Split split) const override;
  Batch get(Split split, std::span<const int64_t> indices, uint64_t seed) const override;
  const Tokenizer* tokenizer() const override { return corpus_.tokenizer.get(); }

 protected:
  // Throws Error (beginning with `name`) when a stream is shorter than one window.
  WindowDataset(const std::string& name, Corpus corpus, int64_t context);

 private:
  const TokenStream& stream(Split split) const;
  Corpus corpus_;
  int64_t context_;
};

}  // namespace tessera
