// Needles in a haystack: key-value pairs hidden in filler, one of them asked for at the end.
#include <algorithm>

#include "tessera/config/registry.h"
#include "tessera/data/sequences.h"

namespace tessera {

namespace {

constexpr int64_t kNeedle = 0, kQuestion = 1, kSpecial = 2;
constexpr int64_t kNeedleLength = 3, kQuestionLength = 2;

struct NeedleConfig : GeneratedSizes {
  int64_t vocabulary = 64;
  int64_t context = 128;
  int64_t needles = 1;
  TESSERA_FIELDS(f)
  {
    f("vocabulary", vocabulary, "tokens: 2 marks, then a third each of keys, values and filler")
        .min(11)
        .max(1 << 30);
    f("context", context, "tokens in a sequence").min(5).max(1 << 24);
    f("needles", needles, "pairs hidden in a sequence; one is asked for").min(1).max(1 << 24);
    size_fields(f);
  }
};

// Filler with "mark key value" at random places, then "question key" at the end; only the last
// position is scored, its target is the value.
struct NeedleDataset : SequenceDataset {
  using Config = NeedleConfig;
  NeedleDataset(const Config& c, const DataContext& data)
      : SequenceDataset(c.vocabulary, c.context, c, data.seed), config(c) {
    check(c.needles * kNeedleLength + kQuestionLength <= c.context,
          "data.needles: {} needles and the question need {} tokens, the context has {}", c.needles,
          c.needles * kNeedleLength + kQuestionLength, c.context);
    check(c.needles <= part(),
          "data.needles: {} needles want as many keys, a vocabulary of {} has {}", c.needles,
          c.vocabulary, part());
  }

  int64_t part() const { return (config.vocabulary - kSpecial) / 3; }

  void write(std::span<int64_t> tokens, std::span<int64_t> targets,
             Generator& random) const override {
    const int64_t values = kSpecial + part(), filler = values + part();
    for (int64_t& token : tokens) token = filler + random.below(config.vocabulary - filler);
    const auto keys = draw_distinct(config.needles, kSpecial, values, random);
    // Places in a row that has shrunk each needle to one token: they cannot overlap.
    const int64_t room = config.context - kQuestionLength - config.needles * (kNeedleLength - 1);
    auto places = draw_distinct(config.needles, 0, room, random);
    std::sort(places.begin(), places.end());
    const auto asked = static_cast<size_t>(random.below(config.needles));
    for (size_t i = 0; i < keys.size(); ++i) {
      const int64_t value = values + random.below(part());
      const auto at = static_cast<size_t>(places[i]) + i * (kNeedleLength - 1);
      tokens[at] = kNeedle;
      tokens[at + 1] = keys[i];
      tokens[at + 2] = value;
      if (i == asked) targets.back() = value;
    }
    tokens[tokens.size() - 2] = kQuestion;
    tokens.back() = keys[asked];
  }

  Config config;
};
TESSERA_REGISTER(Dataset, NeedleDataset, "needle", "A key-value pair hidden in filler",
                 "generated; Kamradt 2023, needle in a haystack");

}  // namespace

}  // namespace tessera
