// The configs and registered classes that the tests of this folder read and write.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tessera/config/json.h"
#include "tessera/config/registry.h"

namespace tessera {

struct Shaper {
  static constexpr const char* kKind = "shaper";
  using Build = std::unique_ptr<Shaper>(int&, const std::string&);
  virtual ~Shaper() = default;
  virtual std::string name() const = 0;
};

struct RoundConfig {
  double radius = 1;
  std::string mode = "fast";
  bool operator==(const RoundConfig&) const = default;
  TESSERA_FIELDS(f)
  {
    f("radius", radius, "distance from the centre").above(0);
    f("mode", mode, "how to round").one_of({"fast", "exact"});
  }
};

// A shaper around a shaper: its config holds a choice of its own kind.
struct WrapConfig {
  Choice<Shaper> inner{"round"};
  TESSERA_FIELDS(f)
  { f("inner", inner, "what is wrapped"); }
};

struct Range {
  std::optional<double> min, max;
  bool operator==(const Range&) const = default;
  TESSERA_FIELDS(f)
  {
    f("min", min, "lowest value allowed");
    f("max", max, "highest value allowed");
  }
  void validate(const std::string& path) const {
    if (min && max && *min > *max) config_fail(path, "min {} is above max {}", *min, *max);
  }
};

struct Layer {
  int64_t width = 8;
  bool bias = true;
  bool operator==(const Layer&) const = default;
  TESSERA_FIELDS(f)
  {
    f("width", width, "units").min(1).max(4096);
    f("bias", bias, "whether it has a bias");
  }
};

struct Everything {
  int64_t steps = 10;
  double rate = 0.5;
  bool fast = false;
  std::string label = "run";
  std::optional<int64_t> limit;
  std::optional<double> decay = 0.1;
  std::optional<std::string> note;
  std::vector<int64_t> sizes{2, 3};
  std::vector<double> weights;
  std::vector<std::string> tags{"a"};
  Layer head{.width = 16};
  std::optional<Layer> extra;
  std::vector<Layer> layers;
  std::map<std::string, Range> expect;
  Choice<Shaper> shaper{"round"};
  std::vector<Choice<Shaper>> stack;
  Json raw = Json::object();
  int64_t bits = 8;
  bool operator==(const Everything&) const = default;
  TESSERA_FIELDS(f)
  {
    f("steps", steps, "how many steps").min(1);
    f("rate", rate, "probability, 0 to 1").min(0).below(1);
    f("fast", fast, "whether to hurry");
    f("label", label, "name of the run");
    f("limit", limit, "most items; default 4 × steps").min(1);
    f("decay", decay, "decay, if any").above(0);
    f("note", note, "anything").one_of({"short", "long"});
    f("sizes", sizes, "two sizes").min(1).size(2);
    f("weights", weights, "any number of weights").max(10);
    f("tags", tags, "words").one_of({"a", "b", "c"});
    f("head", head, "the last layer");
    f("extra", extra, "one more layer");
    f("layers", layers, "all layers");
    f("expect", expect, "ranges that metrics must reach");
    f("shaper", shaper, "what shapes");
    f("stack", stack, "several shapers");
    f("raw", raw, "passed on as it is");
    f("bits", bits, "bits of a number").one_of({4, 8});
  }
};

struct Looper {
  static constexpr const char* kKind = "looper";
  using Build = std::unique_ptr<Looper>();
  virtual ~Looper() = default;
};

// Its default is itself, without end.
struct EndlessConfig {
  Choice<Looper> inner{"endless"};
  TESSERA_FIELDS(f)
  { f("inner", inner, "itself by default"); }
};

// A config whose choice has no default.
struct NeedsShaper {
  Choice<Shaper> shaper;
  TESSERA_FIELDS(f)
  { f("shaper", shaper, "what shapes"); }
};

}  // namespace tessera
