// Associative recall in which a key and its value are one token, so that one attention layer can
// solve it and only attention can.
#include "tessera/config/registry.h"
#include "tessera/data/sequences.h"

namespace tessera {

namespace {

struct FusedRecallConfig : GeneratedSizes {
  int64_t context = 256;
  int64_t symbols = 8;
  int64_t queries = 8;
  int64_t filler = 24;
  int64_t hops = 1;
  TESSERA_FIELDS(f)
  {
    f("context", context, "tokens in a sequence").min(4).max(1 << 24);
    f("symbols", symbols, "keys, and as many values").min(2).max(1 << 10);
    f("queries", queries, "questions in a sequence").min(1).max(1 << 24);
    f("filler", filler, "tokens that mean nothing").min(1).max(1 << 20);
    f("hops", hops, "2: the value found is the key to look up next").min(1).max(2);
    size_fields(f);
  }
};

// Tokens, with S symbols: S · key + value is a pair, S² + key asks for a key, the rest is filler.
// Filler everywhere, but for one pair per key with a random value at random places of the first
// quarter, and questions for random keys at random places of the last quarter. The target at a
// question is its value v, as token v: S classes.
struct FusedRecallDataset : SequenceDataset {
  using Config = FusedRecallConfig;
  FusedRecallDataset(const Config& c, const DataContext& data)
      : SequenceDataset(first_filler(c) + c.filler, c.context, c, data.seed), config(c) {
    check(c.symbols <= quarter(), "data.symbols: {} pairs do not fit into a quarter of {} tokens",
          c.symbols, c.context);
    check(c.queries <= quarter(), "data.queries: {} queries do not fit into a quarter of {} tokens",
          c.queries, c.context);
  }

  static int64_t first_filler(const Config& c) { return c.symbols * (c.symbols + 1); }
  int64_t quarter() const { return config.context / 4; }

  void write(std::span<int64_t> tokens, std::span<int64_t> targets,
             Generator& random) const override {
    const int64_t symbols = config.symbols;
    for (int64_t& token : tokens) token = first_filler(config) + random.below(config.filler);
    std::vector<int64_t> value_of;
    for (const int64_t at : draw_distinct(symbols, 0, quarter(), random)) {
      const auto key = static_cast<int64_t>(value_of.size());
      value_of.push_back(random.below(symbols));
      tokens[static_cast<size_t>(at)] = symbols * key + value_of.back();
    }
    const int64_t first = config.context - quarter();
    for (const int64_t at : draw_distinct(config.queries, first, config.context, random)) {
      const int64_t key = random.below(symbols);
      tokens[static_cast<size_t>(at)] = symbols * symbols + key;
      int64_t found = key;
      for (int64_t hop = 0; hop < config.hops; ++hop) found = value_of[static_cast<size_t>(found)];
      targets[static_cast<size_t>(at)] = found;
    }
  }

  Config config;
};
TESSERA_REGISTER(Dataset, FusedRecallDataset, "fused_recall",
                 "Recall of values fused with their keys, over one or two hops", "generated");

}  // namespace

}  // namespace tessera
