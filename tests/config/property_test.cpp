// Random configs and random damage to their texts.
#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "sample_configs.h"

namespace tessera {
namespace {

struct Random {
  std::mt19937_64 engine;
  int64_t below(int64_t n) { return static_cast<int64_t>(engine() % static_cast<uint64_t>(n)); }
  bool coin() { return below(2) == 0; }
  double real() { return std::ldexp(static_cast<double>(engine() >> 11), -53); }  // [0, 1)
  std::string word() {
    static const std::string kLetters[] = {"a", "Z", "ü", "\n", "\"", "\\", " ", "注", "0", "\x01"};
    std::string word;
    for (int64_t n = below(6); n > 0; --n) word += kLetters[below(10)];
    return word;
  }
};

Choice<Shaper> random_shaper(Random& random, int depth) {
  Choice<Shaper> shaper{depth > 0 && random.coin() ? "wrap" : "round"};
  if (random.coin()) return shaper;
  if (shaper.type() == "wrap") {
    shaper.config<WrapConfig>().inner = random_shaper(random, depth - 1);
  } else {
    shaper.config<RoundConfig>() = {1 / (1 + random.real()), random.coin() ? "fast" : "exact"};
  }
  return shaper;
}

Layer random_layer(Random& random) {
  return {1 + random.below(4096), random.coin()};
}

Everything random_config(Random& random) {
  Everything c;
  c.steps = 1 + static_cast<int64_t>(random.engine() >> (1 + random.below(62)));
  if (c.steps < 1) c.steps = 1;
  c.rate = random.real();
  c.fast = random.coin();
  c.label = random.word();
  if (random.coin()) c.limit = 1 + random.below(100);
  if (random.coin()) c.decay.reset();
  if (random.coin()) c.note = random.coin() ? "short" : "long";
  c.sizes = {1 + random.below(9), 1 + random.below(9)};
  for (int64_t n = random.below(4); n > 0; --n) c.weights.push_back(10 - 1e6 * random.real());
  c.tags.assign(static_cast<size_t>(random.below(3)), "b");
  c.head = random_layer(random);
  if (random.coin()) c.extra = random_layer(random);
  for (int64_t n = random.below(3); n > 0; --n) c.layers.push_back(random_layer(random));
  for (int64_t n = random.below(3); n > 0; --n) {
    const std::string metric = random.word();
    c.expect[metric] = {-random.real(), random.real()};
  }
  c.shaper = random_shaper(random, 3);
  for (int64_t n = random.below(3); n > 0; --n) c.stack.push_back(random_shaper(random, 2));
  if (random.coin()) c.raw = Json::array({1, random.word(), nullptr});
  c.bits = random.coin() ? 4 : 8;
  return c;
}

// Some bytes changed, removed, doubled or replaced by pieces of JSON.
std::string damaged(std::string text, Random& random) {
  static const std::string kPieces[] = {"{", "}",    "[",     "]",    ",",  ":",        "\"",
                                        "0", "-1e9", "1e400", "null", "\n", "\"type\"", "\xff"};
  for (int64_t n = 1 + random.below(3); n > 0; --n) {
    const auto at = static_cast<size_t>(random.below(static_cast<int64_t>(text.size())));
    const auto length = static_cast<size_t>(1 + random.below(8));
    switch (random.below(4)) {
      case 0:
        text[at] = static_cast<char>(random.below(256));
        break;
      case 1:
        text.erase(at, length);
        break;
      case 2:
        text.insert(at, text.substr(at, length));
        break;
      default:
        text.replace(at, length, kPieces[random.below(14)]);
        break;
    }
    if (text.empty()) return text;
  }
  return text;
}

}  // namespace

TEST_CASE("random configs are the same after writing and reading") {
  Random random{std::mt19937_64(1)};
  for (int i = 0; i < 200; ++i) {
    const Everything config = random_config(random);
    const std::string text = to_json(config).dump();
    CAPTURE(text);
    const auto again = from_json<Everything>(parse_json(text, "text"));
    CHECK(again == config);
    CHECK(to_json(again).dump() == text);
  }
}

TEST_CASE("a damaged config text is read or gives an error of one line") {
  Random random{std::mt19937_64(2)};
  int refused = 0;
  for (int i = 0; i < 500; ++i) {
    const std::string text = damaged(to_json(random_config(random)).dump(i % 2 ? 1 : -1), random);
    try {
      from_json<Everything>(parse_json(text, "text"));
    } catch (const ConfigError& error) {
      ++refused;
      const std::string what = error.what();
      CAPTURE(text);
      CHECK(!what.empty());
      CHECK(what.find_first_of("\n\r") == std::string::npos);
    }
  }
  CHECK(refused > 250);
}

}  // namespace tessera
