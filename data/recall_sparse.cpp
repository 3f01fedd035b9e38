// Recall of few pairs in long noise (after Ren et al. 2023, and the recall tasks of Arora et al.).
#include <algorithm>

#include "tessera/config/registry.h"
#include "tessera/data/sequences.h"

namespace tessera {

namespace {

struct RecallSparseConfig : GeneratedSizes {
  int64_t context = 256;
  int64_t noise = 48;
  int64_t keys = 8;
  int64_t values = 8;
  int64_t pairs = 4;
  int64_t questions = 1;
  bool score_text = false;
  TESSERA_FIELDS(f)
  {
    f("context", context, "tokens in a sequence").min(3).max(1 << 24);
    f("noise", noise, "tokens that mean nothing; keys and values follow them").min(1).max(1 << 24);
    f("keys", keys, "different keys").min(1).max(1 << 24);
    f("values", values, "different values").min(1).max(1 << 24);
    f("pairs", pairs, "keys with their value in a sequence").min(1).max(1 << 24);
    f("questions", questions, "keys asked for at the end, one after another").min(1).max(1 << 24);
    f("score_text", score_text,
      "in training every next token is scored, as in a language model, not the answers alone");
    size_fields(f);
  }
};

// Noise with "key value" at random places, then "key value key … key" again; the positions of these
// keys are scored, their targets are the values that followed them.
struct RecallSparseDataset : SequenceDataset {
  using Config = RecallSparseConfig;
  RecallSparseDataset(const Config& c, const DataContext& data)
      : SequenceDataset(c.noise + c.keys + c.values, c.context, c, data.seed), config(c) {
    check(2 * c.pairs + asking() <= c.context,
          "data.pairs: {} pairs and {} questions need {} tokens, the context has {}", c.pairs,
          c.questions, 2 * c.pairs + asking(), c.context);
    check(c.pairs <= c.keys, "data.pairs: {} pairs want as many keys, there are {}", c.pairs,
          c.keys);
    check(c.questions <= c.pairs, "data.questions: {} questions about {} pairs", c.questions,
          c.pairs);
  }

  int64_t asking() const { return 2 * config.questions - 1; }

  Batch get(Split split, std::span<const int64_t> indices, uint64_t seed) const override {
    Batch batch = SequenceDataset::get(split, indices, seed);
    if (config.score_text && split == Split::train) {
      const Tensor &tokens = batch.at("tokens"), &targets = batch.at("targets");
      int64_t* to = targets.data<int64_t>();
      const int64_t last = targets.numel() - 1;
      for (int64_t i = 0; i < last; ++i) {
        if ((i + 1) % config.context != 0) to[i] = tokens.data<int64_t>()[i + 1];
      }
    }
    return batch;
  }

  void write(std::span<int64_t> tokens, std::span<int64_t> targets,
             Generator& random) const override {
    for (int64_t& token : tokens) token = random.below(config.noise);
    const auto keys = draw_distinct(config.pairs, config.noise, config.noise + config.keys, random);
    // Places in a row that has shrunk each pair to one token: they cannot overlap.
    auto places = draw_distinct(config.pairs, 0, config.context - asking() - config.pairs, random);
    std::sort(places.begin(), places.end());
    const auto asked = draw_distinct(config.questions, 0, config.pairs, random);
    for (size_t i = 0; i < keys.size(); ++i) {
      const int64_t value = config.noise + config.keys + random.below(config.values);
      auto put = [&](size_t at) {
        tokens[at] = keys[i];
        if (at + 1 < tokens.size()) tokens[at + 1] = value;
      };
      put(static_cast<size_t>(places[i]) + i);
      for (size_t k = 0; k < asked.size(); ++k) {
        if (asked[k] != static_cast<int64_t>(i)) continue;
        const size_t at = tokens.size() - static_cast<size_t>(asking()) + 2 * k;
        put(at);
        targets[at] = value;
      }
    }
  }

  Config config;
};
TESSERA_REGISTER(Dataset, RecallSparseDataset, "recall_sparse",
                 "A few key-value pairs in long noise, one asked for at the end", "generated");

}  // namespace

}  // namespace tessera
