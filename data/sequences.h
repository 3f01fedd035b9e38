// Generated token sequences with a few scored positions.
#pragma once

#include <span>

#include "tessera/data/generated.h"

namespace tessera {

// "tokens" (B, T) and "targets" (B, T) i64: the target stands on the position whose output must be
// that token, −1 everywhere else.
class SequenceDataset : public Dataset {
 public:
  DataInfo info() const override;
  int64_t size(Split split) const override { return sizes_.of(split); }
  Batch get(Split split, std::span<const int64_t> indices, uint64_t seed) const override;

 protected:
  SequenceDataset(int64_t vocabulary, int64_t context, const GeneratedSizes& sizes, uint64_t seed)
      : vocabulary_(vocabulary), context_(context), sizes_(sizes), seed_(seed) {}
  // Writes one sequence; the targets come filled with −1.
  virtual void write(std::span<int64_t> tokens, std::span<int64_t> targets,
                     Generator& random) const = 0;

 private:
  int64_t vocabulary_, context_;
  GeneratedSizes sizes_;
  uint64_t seed_;
};

// `count` different numbers from [low, high), in random order.
std::vector<int64_t> draw_distinct(int64_t count, int64_t low, int64_t high, Generator& random);

}  // namespace tessera
