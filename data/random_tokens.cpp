#include "tessera/config/registry.h"
#include "tessera/data/sequences.h"

namespace tessera {

namespace {

struct RandomTokensConfig : GeneratedSizes {
  int64_t vocabulary = 50304;
  int64_t context = 1024;
  TESSERA_FIELDS(f)
  {
    f("vocabulary", vocabulary, "tokens to choose from").min(1).max(1 << 24);
    f("context", context, "tokens in a sequence").min(1).max(1 << 24);
    size_fields(f);
  }
};

// Independent uniform tokens; the target is the next one. Nothing can be learnt: for measurements.
struct RandomTokensDataset : SequenceDataset {
  using Config = RandomTokensConfig;
  RandomTokensDataset(const Config& c, const DataContext& context)
      : SequenceDataset(c.vocabulary, c.context, c, context.seed), vocabulary_(c.vocabulary) {}

 protected:
  void write(std::span<int64_t> tokens, std::span<int64_t> targets,
             Generator& random) const override {
    for (size_t i = 0; i <= tokens.size(); ++i) {
      const uint64_t word = random.next();
      const auto token = static_cast<int64_t>(word * static_cast<uint64_t>(vocabulary_) >> 32);
      if (i < tokens.size()) tokens[i] = token;
      if (i > 0) targets[i - 1] = token;
    }
  }

 private:
  int64_t vocabulary_;
};
TESSERA_REGISTER(Dataset, RandomTokensDataset, "random_tokens",
                 "uniform random tokens of any vocabulary, for measurements", "generated");

}  // namespace

}  // namespace tessera
