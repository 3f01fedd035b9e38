#include <algorithm>
#include <queue>
#include <set>

#include "tessera/core/error.h"
#include "tessera/data/bpe.h"

namespace tessera {
namespace {

using Pair = std::pair<int32_t, int32_t>;

// The distinct pieces of a text as symbols, and where pairs of neighbours occur in them.
class Corpus {
 public:
  Corpus(std::string_view text, PieceRule rule) {
    std::unordered_map<std::string_view, int64_t> counts;
    for_each_piece(text, rule, [&](std::string_view piece) { ++counts[piece]; });
    std::vector<std::pair<std::string_view, int64_t>> pieces(counts.begin(), counts.end());
    std::sort(pieces.begin(), pieces.end());
    for (const auto& [piece, count] : pieces) {
      Word word{{}, count};
      for (const char c : piece) word.symbols.push_back(static_cast<unsigned char>(c));
      words_.push_back(std::move(word));
    }
    for (size_t w = 0; w < words_.size(); ++w) add_pairs(w, 1);
    for (const auto& [pair, count] : counts_) queue_.push({count, pair});
  }

  // The most frequent pair that occurs twice or more; false for none.
  bool best(Pair& pair) {
    while (!queue_.empty()) {
      const Candidate top = queue_.top();
      const auto now = counts_.find(top.pair);
      if (now != counts_.end() && now->second == top.count) {
        pair = top.pair;
        return top.count > 1;
      }
      queue_.pop();  // counted before other merges changed it
    }
    return false;
  }

  void merge(const Pair& pair, int32_t result) {
    const std::set<size_t> words = std::move(places_[pair]);
    places_.erase(pair);
    std::set<Pair> changed;
    for (const size_t w : words) {
      add_pairs(w, -1, &changed);
      replace(words_[w].symbols, pair, result);
      add_pairs(w, 1, &changed);
    }
    for (const Pair& p : changed) {
      const auto now = counts_.find(p);
      if (now == counts_.end()) continue;
      if (now->second <= 0) {
        counts_.erase(now);
      } else {
        queue_.push({now->second, p});
      }
    }
  }

 private:
  struct Word {
    std::vector<int32_t> symbols;
    int64_t count;
  };
  struct Candidate {
    int64_t count;
    Pair pair;
    bool operator<(const Candidate& b) const {
      return count != b.count ? count < b.count : pair > b.pair;
    }
  };

  void add_pairs(size_t w, int64_t sign, std::set<Pair>* changed = nullptr) {
    const Word& word = words_[w];
    for (size_t i = 0; i + 1 < word.symbols.size(); ++i) {
      const Pair pair{word.symbols[i], word.symbols[i + 1]};
      counts_[pair] += sign * word.count;
      if (sign > 0) places_[pair].insert(w);
      if (changed != nullptr) changed->insert(pair);
    }
  }

  static void replace(std::vector<int32_t>& symbols, const Pair& pair, int32_t result) {
    size_t to = 0;
    for (size_t i = 0; i < symbols.size(); ++i) {
      const bool both =
          i + 1 < symbols.size() && symbols[i] == pair.first && symbols[i + 1] == pair.second;
      symbols[to++] = both ? result : symbols[i];
      if (both) ++i;
    }
    symbols.resize(to);
  }

  std::vector<Word> words_;
  std::map<Pair, int64_t> counts_;
  std::map<Pair, std::set<size_t>> places_;  // words that had the pair, some perhaps no more
  std::priority_queue<Candidate> queue_;
};

}  // namespace

BpeModel train_bpe(std::string_view text, int64_t size, PieceRule pieces,
                   const std::vector<std::string>& specials) {
  check(size >= 256 + static_cast<int64_t>(specials.size()) && size <= 1 << 24,
        "bpe: a vocabulary of {} tokens; it has 256 bytes and {} special tokens at least", size,
        specials.size());
  BpeModel model;
  model.pieces = pieces;
  for (int b = 0; b < 256; ++b) model.tokens.emplace_back(1, static_cast<char>(b));
  Corpus corpus(text, pieces);
  std::set<std::string> known(model.tokens.begin(), model.tokens.end());
  Pair pair;
  while (static_cast<int64_t>(model.tokens.size() + specials.size()) < size && corpus.best(pair)) {
    const std::string whole = model.tokens[static_cast<size_t>(pair.first)] +
                              model.tokens[static_cast<size_t>(pair.second)];
    // Two pairs may spell one token: it keeps its first id.
    int32_t id = static_cast<int32_t>(model.tokens.size());
    if (!known.insert(whole).second) {
      const auto first = std::find(model.tokens.begin(), model.tokens.end(), whole);
      id = static_cast<int32_t>(first - model.tokens.begin());
    } else {
      model.tokens.push_back(whole);
    }
    model.merges.push_back(pair);
    corpus.merge(pair, id);
  }
  for (const std::string& special : specials) {
    model.specials[special] = static_cast<int32_t>(model.tokens.size());
    model.tokens.push_back(special);
  }
  return model;
}

}  // namespace tessera
