#include "tessera/attention/engines/make_score.h"
#include "tessera/attention/engines/scores.h"

namespace tessera {
namespace {

// Functors that add an entry of a table.
struct Addition {
  static constexpr int tables = 1;
  template <class T>
  TESSERA_HD T operator()(T s, T entry) const {
    return s + entry;
  }
};

struct OffsetBias : Addition {
  static constexpr std::string_view name = "offset_bias";
  int64_t per_head, width, left;
  TESSERA_HD int64_t index(int, const ScorePlace& at) const {
    const int64_t offset = left - at.distance();
    return offset < 0 || offset >= width ? -1 : at.head * per_head + offset;
  }
  bool differs(ScoreAxis axis) const { return axis == ScoreAxis::head && per_head != 0; }
};

struct DistanceBias : Addition {
  static constexpr std::string_view name = "distance_bias";
  int64_t per_head, width;
  TESSERA_HD int64_t index(int, const ScorePlace& at) const {
    const int64_t d = at.distance() < 0 ? -at.distance() : at.distance();
    return at.head * per_head + (d < width ? d : width - 1);
  }
  bool differs(ScoreAxis axis) const { return axis == ScoreAxis::head && per_head != 0; }
};

struct BucketBias : Addition {
  static constexpr std::string_view name = "bucket_bias";
  int64_t heads, buckets, max_distance;
  bool bidirectional;
  TESSERA_HD int64_t index(int, const ScorePlace& at) const {
    int64_t d = at.distance(), first = 0, count = buckets;
    if (bidirectional) {
      count /= 2;
      if (d < 0) first = count;
      d = d < 0 ? -d : d;
    } else if (d < 0) {
      d = 0;
    }
    return (first + bucket(d, count)) * heads + at.head;
  }
  bool differs(ScoreAxis axis) const { return axis == ScoreAxis::head; }

 private:
  TESSERA_HD int64_t bucket(int64_t distance, int64_t count) const {
    const int64_t exact = count / 2;
    if (distance < exact) return distance;
    const double share = math::log(static_cast<double>(distance) / static_cast<double>(exact)) /
                         math::log(static_cast<double>(max_distance) / static_cast<double>(exact));
    const auto step = static_cast<int64_t>(share * static_cast<double>(count - exact));
    return exact + (step < count - exact ? step : count - exact - 1);
  }
};

struct Bias : Addition {
  static constexpr std::string_view name = "bias";
  int64_t batch, head, query, key;
  TESSERA_HD int64_t index(int, const ScorePlace& at) const {
    return at.batch * batch + at.head * head + at.query * query + at.key * key;
  }
  bool differs(ScoreAxis axis) const {
    const int64_t steps[] = {batch, head, query, key};
    return steps[static_cast<int>(axis)] != 0;
  }
};

int64_t per_head(const Tensor& table, std::string_view name) {
  check(table.rank() == 2 && table.size(1) > 0, "{}: wants a table (H or 1, W), got {}", name,
        table.shape());
  return table.size(0) == 1 ? 0 : table.size(1);
}

}  // namespace

Score offset_bias(const Tensor& table, int64_t left) {
  return make_score(OffsetBias{{}, per_head(table, OffsetBias::name), table.size(1), left},
                    {table});
}

Score distance_bias(const Tensor& table) {
  return make_score(DistanceBias{{}, per_head(table, DistanceBias::name), table.size(1)}, {table});
}

Score bucket_bias(const Tensor& table, int64_t max_distance, bool bidirectional) {
  check(table.rank() == 2 && table.size(0) >= 4, "bucket_bias: wants (buckets ≥ 4, H), got {}",
        table.shape());
  check(max_distance > table.size(0) / 2, "bucket_bias: max_distance {} must be above {}",
        max_distance, table.size(0) / 2);
  return make_score(BucketBias{{}, table.size(1), table.size(0), max_distance, bidirectional},
                    {table});
}

Score bias(const Tensor& table) {
  check(table.rank() == 4, "bias: wants a table broadcastable to (B, H, N, M), got {}",
        table.shape());
  auto step = [&](int64_t dim) {
    int64_t s = 1;
    for (int64_t d = dim + 1; d < 4; ++d) s *= table.size(d);
    return table.size(dim) == 1 ? 0 : s;
  };
  return make_score(Bias{{}, step(0), step(1), step(2), step(3)}, {table});
}

}  // namespace tessera
