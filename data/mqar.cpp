// Multi-query associative recall (Arora, Eyuboglu et al. 2024, "Zoology").
#include <algorithm>
#include <cmath>
#include <numeric>

#include "tessera/config/registry.h"
#include "tessera/data/sequences.h"

namespace tessera {

namespace {

struct MqarConfig : GeneratedSizes {
  int64_t vocabulary = 512;
  int64_t context = 64;
  int64_t pairs = 8;
  double power = 0.01;
  int64_t passes = 1;
  bool random_non_queries = false;
  TESSERA_FIELDS(f)
  {
    f("vocabulary", vocabulary, "tokens; the lower half are keys, the upper half values")
        .min(4)
        .max(1 << 30);
    f("context", context, "tokens in a sequence, even").min(4).max(1 << 24);
    f("pairs", pairs, "key-value pairs to remember").min(1).max(1 << 24);
    f("power", power,
      "queries in slot s have weight s^(power - 1): 1 even, small prefers early ones")
        .min(1e-6);
    f("passes", passes, "how often the prefix of pairs is shown").min(1).max(1 << 24);
    f("random_non_queries", random_non_queries, "fill unused places with random tokens, not zeros");
    size_fields(f);
  }
};

// The prefix "key value key value …", then each key once in a slot of two tokens; the target at the
// query is its value.
struct MqarDataset : SequenceDataset {
  using Config = MqarConfig;
  MqarDataset(const Config& c, const DataContext& data)
      : SequenceDataset(c.vocabulary, c.context, c, data.seed), config(c) {
    check(c.context % 2 == 0, "data.context: {} must be even", c.context);
    check(c.vocabulary > c.context, "data.vocabulary: {} must be above the context {}",
          c.vocabulary, c.context);
    check(2 * c.pairs * (c.passes + 1) <= c.context,
          "data.pairs: {} pairs shown {} times and asked once need {} tokens, the context has {}",
          c.pairs, c.passes, 2 * c.pairs * (c.passes + 1), c.context);
    check(c.pairs < c.vocabulary / 2, "data.pairs: {} keys need a vocabulary above {}", c.pairs,
          2 * c.pairs + 1);
  }

  void write(std::span<int64_t> tokens, std::span<int64_t> targets,
             Generator& random) const override {
    const int64_t half = config.vocabulary / 2, prefix = 2 * config.pairs * config.passes;
    const auto keys = draw_distinct(config.pairs, 1, half, random);
    const auto values = draw_distinct(config.pairs, half, config.vocabulary, random);
    if (config.random_non_queries) {
      for (int64_t& token : tokens.subspan(static_cast<size_t>(prefix))) {
        token = random.below(config.vocabulary);
      }
    }
    const auto slots = draw_slots((config.context - prefix) / 2, random);
    for (size_t i = 0; i < keys.size(); ++i) {
      for (int64_t pass = 0; pass < config.passes; ++pass) {
        const auto at = static_cast<size_t>(2 * config.pairs * pass) + 2 * i;
        tokens[at] = keys[i];
        tokens[at + 1] = values[i];
      }
      const auto query = static_cast<size_t>(prefix + 2 * slots[i]);
      tokens[query] = keys[i];
      targets[query] = values[i];
    }
  }

  // One slot per pair without replacement: the largest of log weight + Gumbel noise, which is
  // drawing one after another.
  std::vector<int64_t> draw_slots(int64_t space, Generator& random) const {
    std::vector<double> score(static_cast<size_t>(space));
    for (size_t s = 0; s < score.size(); ++s) {
      const double noise = -std::log(-std::log1p(-random.uniform()));
      score[s] = (config.power - 1) * std::log(static_cast<double>(s + 1)) + noise;
    }
    std::vector<int64_t> slots(score.size());
    std::iota(slots.begin(), slots.end(), 0);
    std::partial_sort(slots.begin(), slots.begin() + config.pairs, slots.end(),
                      [&](int64_t a, int64_t b) {
                        return score[static_cast<size_t>(a)] > score[static_cast<size_t>(b)];
                      });
    slots.resize(static_cast<size_t>(config.pairs));
    return slots;
  }

  Config config;
};
TESSERA_REGISTER(Dataset, MqarDataset, "mqar", "Multi-query associative recall",
                 "Arora, Eyuboglu et al. 2024, arXiv 2312.04927");

}  // namespace

}  // namespace tessera
