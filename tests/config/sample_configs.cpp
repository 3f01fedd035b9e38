#include "sample_configs.h"

namespace tessera {
namespace {

struct Round final : Shaper {
  using Config = RoundConfig;
  Config config;
  Round(const Config& c, int& built, const std::string&) : config(c) { ++built; }
  std::string name() const override { return fmt::format("round {}", config.radius); }
};

struct Wrap final : Shaper {
  using Config = WrapConfig;
  std::unique_ptr<Shaper> inner;
  Wrap(const Config& c, int& built, const std::string& tag) : inner(c.inner.build(built, tag)) {
    ++built;
  }
  std::string name() const override { return "wrapped " + inner->name(); }
  static void capabilities(Capabilities& c) { c.unsupported("decode", "it looks both ways"); }
};

struct Endless final : Looper {
  using Config = EndlessConfig;
  explicit Endless(const Config&) {}
};

TESSERA_REGISTER(Shaper, Round, "round", "Rounds everything off", "Euclid");
TESSERA_REGISTER(Shaper, Wrap, "wrap", "Wraps another shaper", "");
TESSERA_REGISTER(Looper, Endless, "endless", "Chooses itself without end", "");

}  // namespace
}  // namespace tessera
