#include "tessera/attention/engines/scores.h"

#include "tessera/attention/engines/make_score.h"

namespace tessera {
namespace {

struct Softcap {
  static constexpr std::string_view name = "softcap";
  double cap;
  template <class T>
  TESSERA_HD T operator()(T s) const {
    const auto c = constant<T>(cap);
    return c * math::tanh(s / c);
  }
};

struct Alibi {
  static constexpr std::string_view name = "alibi";
  static constexpr int tables = 1, numbers = 1;
  Shape table_shape(int, const ScoreSizes& sizes) const { return {sizes.heads}; }
  TESSERA_HD int64_t index(int, const ScorePlace& at) const { return at.head; }
  TESSERA_HD double number(int, const ScorePlace& at) const {
    return at.distance() < 0 ? -at.distance() : at.distance();
  }
  bool differs(ScoreAxis axis) const { return axis == ScoreAxis::head; }
  template <class T>
  TESSERA_HD T operator()(T s, T slope, T distance) const {
    return s - slope * distance;
  }
};

struct ReluSquared {
  static constexpr std::string_view name = "relu_squared";
  template <class T>
  TESSERA_HD T operator()(T s) const {
    const bool counts = s > scalar_of_t<T>(0);
    return math::select(counts, 2 * math::log(math::select(counts, s, T(1))), T(-INFINITY));
  }
};

struct SelfScore {
  static constexpr std::string_view name = "self_score";
  static constexpr int numbers = 1;
  double score;
  TESSERA_HD double number(int, const ScorePlace& at) const { return at.distance() == 0 ? 1 : 0; }
  template <class T>
  TESSERA_HD T operator()(T s, T self) const {
    return math::select(self > scalar_of_t<T>(0), T(constant<T>(score)), s);
  }
};

}  // namespace

Score softcap(double cap) {
  check(cap > 0, "softcap: the cap is {}; it must be above 0", cap);
  return make_score(Softcap{cap});
}

Score alibi(const Tensor& slopes) {
  check(slopes.rank() == 1, "alibi: wants slopes (H), got {}", slopes.shape());
  return make_score(Alibi{}, {slopes});
}

Score relu_squared() {
  return make_score(ReluSquared{});
}

Score self_score(double score) {
  return make_score(SelfScore{score});
}

}  // namespace tessera
