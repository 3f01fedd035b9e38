// How a model knows where its tokens are. Configs name it: "positions": "rotary" or
// {"type": "rotary", "base": 500000}.
#pragma once

#include "tessera/autograd/ops/rotary.h"
#include "tessera/config/registry.h"
#include "tessera/nn/module.h"

namespace tessera {

struct PositionGeometry {
  int64_t width = 0;
  int64_t context = 0;
  int64_t heads = 1;
  int64_t head_dim = 0;
};

// A tensor that never changes, with a copy on every device that asks for it.
class Constant {
 public:
  Constant() = default;
  explicit Constant(const Tensor& values) : copies_{values} {}
  Tensor on(Device device) const;

 private:
  mutable TensorList copies_;
};

// A bias of scores that depends on the distance of query and key, as data for whoever computes
// attention; `table` is undefined for none.
struct ScoreBias {
  enum class Kind { slopes, buckets };
  Kind kind = Kind::slopes;
  Tensor table = {};  // slopes (H): score − slope_h |i − j|; buckets (buckets, H): score + entry
  int64_t max_distance = 0;    // of buckets: from here on all distances share one
  bool bidirectional = false;  // buckets tell the future from the past
};

// The three places where positions can enter; each does nothing unless overridden.
class Positions : public Module {
 public:
  static constexpr const char* kKind = "positions";
  using Build = std::unique_ptr<Positions>(const PositionGeometry&);

  // Token embeddings (B, N, width) at positions i64 (N), the same of all rows, or (B, N).
  virtual Tensor embed(const Tensor& x, const Tensor& positions) const;
  // Queries or keys (B, H, N, D) at positions i64 (N) or (B, N).
  virtual Tensor rotate(const Tensor& x, const Tensor& positions) const;
  virtual ScoreBias score_bias(Device device) const;
  void members(Members&) override {}
};

struct NoPositions final : Positions {
  struct Config {
    TESSERA_FIELDS(f)
    { (void)f; }
  };
  NoPositions(const Config&, const PositionGeometry&) {}
};

// x + E[position], E (context, width) learned (Gehring et al. 2017; GPT-2).
struct LearnedPositions final : Positions {
  struct Config {
    double init_std = 0.02;
    TESSERA_FIELDS(f)
    { f("init_std", init_std, "deviation of the initial table").min(0); }
  };
  Tensor weight;
  LearnedPositions(const Config& config, const PositionGeometry& g);
  Tensor embed(const Tensor& x, const Tensor& positions) const override;
  TESSERA_MEMBERS(weight)
};

// x + P[position], P[p, 2i] = sin(p / base^(2i/width)), P[p, 2i+1] = cos(…) (Vaswani et al. 2017).
struct SinusoidalPositions final : Positions {
  struct Config {
    double base = 10000;
    TESSERA_FIELDS(f)
    { f("base", base, "longest wavelength over 2π").above(1); }
  };
  SinusoidalPositions(const Config& config, const PositionGeometry& g);
  Tensor embed(const Tensor& x, const Tensor& positions) const override;

 private:
  double base_;
};

// Queries and keys turned by angles that grow with the position (Su et al. 2021).
struct RotaryPositions final : Positions {
  struct Config {
    double base = 10000;
    bool interleaved = false;
    std::string scaling = "none";
    double factor = 1;
    double low = 1;
    double high = 4;
    int64_t original_context = 8192;
    double amplitude = 0;
    TESSERA_FIELDS(f)
    {
      f("base", base, "angle of pair i is position · base^(−2i/D)").above(1);
      f("interleaved", interleaved, "pairs (2i, 2i+1) instead of (i, i + D/2)");
      f("scaling", scaling, "stretching to longer contexts")
          .one_of({"none", "linear", "llama3", "yarn"});
      f("factor", factor, "how much longer").above(0);
      f("low", low, "llama3, yarn: wavelengths above original_context / low are stretched whole")
          .above(0);
      f("high", high, "llama3, yarn: wavelengths below original_context / high are kept").above(0);
      f("original_context", original_context, "llama3, yarn: context of the first training").min(1);
      f("amplitude", amplitude, "yarn: what is rotated is multiplied by it; 0: 0.1 ln(factor) + 1")
          .min(0);
    }
  };
  RotaryPositions(const Config& config, const PositionGeometry& g);
  Tensor rotate(const Tensor& x, const Tensor& positions) const override;

 private:
  RotaryOptions options_;
};

// score_ij − slope_h |i − j|, slopes 2^(−8h/H) (Press et al. 2022, "Train Short, Test Long").
struct AlibiPositions final : Positions {
  struct Config {
    TESSERA_FIELDS(f)
    { (void)f; }
  };
  AlibiPositions(const Config&, const PositionGeometry& g);
  ScoreBias score_bias(Device device) const override;

 private:
  Constant slopes_;  // (H)
};

// score_ij + B_h[bucket(i − j)], learned (Raffel et al. 2020, T5): half of the buckets for exact
// distances, half logarithmic up to max_distance.
struct RelativeBias final : Positions {
  struct Config {
    int64_t buckets = 32;
    int64_t max_distance = 128;
    bool bidirectional = false;
    TESSERA_FIELDS(f)
    {
      f("buckets", buckets, "how many distances are told apart").min(4).max(1 << 20);
      f("max_distance", max_distance, "from here on all distances share a bucket")
          .min(2)
          .max(1 << 20);
      f("bidirectional", bidirectional, "tells the future from the past");
    }
  };
  Tensor weight;  // (buckets, H)
  RelativeBias(const Config& config, const PositionGeometry& g);
  ScoreBias score_bias(Device device) const override;
  TESSERA_MEMBERS(weight)

 private:
  Config config_;
};

}  // namespace tessera
