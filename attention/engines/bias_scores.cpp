#include <cmath>

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
  Shape table_shape(int, const ScoreSizes& sizes) const {
    return {per_head == 0 ? 1 : sizes.heads, width};
  }
  TESSERA_HD int64_t index(int, const ScorePlace& at) const {
    const int64_t offset = left - at.distance();
    return offset < 0 || offset >= width ? -1 : at.head * per_head + offset;
  }
  bool differs(ScoreAxis axis) const { return axis == ScoreAxis::head && per_head != 0; }
};

// Entries by offset; offsets outside the table share its ends.
struct ClampedOffset {
  static constexpr int tables = 1;
  int64_t per_head, width, left;
  Shape table_shape(int, const ScoreSizes& sizes) const {
    return {per_head == 0 ? 1 : sizes.heads, width};
  }
  TESSERA_HD int64_t index(int, const ScorePlace& at) const {
    const int64_t offset = left - at.distance();
    return at.head * per_head + (offset < 0 ? 0 : offset < width ? offset : width - 1);
  }
  bool differs(ScoreAxis axis) const { return axis == ScoreAxis::head && per_head != 0; }
};

struct ClampedBias : ClampedOffset {
  static constexpr std::string_view name = "clamped_bias";
  template <class T>
  TESSERA_HD T operator()(T s, T entry) const {
    return s + entry;
  }
};

struct BiasedReluSquared : ClampedOffset {
  static constexpr std::string_view name = "relu_squared";
  template <class T>
  TESSERA_HD T operator()(T s, T entry) const {
    const T sum = s + entry;
    const bool counts = sum > scalar_of_t<T>(0);
    return math::select(counts, 2 * math::log(math::select(counts, sum, T(1))), T(-INFINITY));
  }
};

struct DistanceBias : Addition {
  static constexpr std::string_view name = "distance_bias";
  int64_t per_head, width;
  Shape table_shape(int, const ScoreSizes& sizes) const {
    return {per_head == 0 ? 1 : sizes.heads, width};
  }
  TESSERA_HD int64_t index(int, const ScorePlace& at) const {
    const int64_t d = at.distance() < 0 ? -at.distance() : at.distance();
    return at.head * per_head + (d < width ? d : width - 1);
  }
  bool differs(ScoreAxis axis) const { return axis == ScoreAxis::head && per_head != 0; }
};

struct BucketBias : Addition {
  static constexpr std::string_view name = "bucket_bias";
  static constexpr int kMost = 256;  // buckets
  int heads, buckets;
  bool bidirectional;
  int32_t from[kMost];  // of the buckets of a direction: their least distance

  Shape table_shape(int, const ScoreSizes& sizes) const { return {buckets, sizes.heads}; }
  TESSERA_HD int64_t index(int, const ScorePlace& at) const {
    int d = at.distance(), first = 0, count = buckets;
    if (bidirectional) {
      count /= 2;
      if (d < 0) first = count;
      d = d < 0 ? -d : d;
    } else if (d < 0) {
      d = 0;
    }
    return int64_t{first + bucket(d, count)} * heads + at.head;
  }
  bool differs(ScoreAxis axis) const { return axis == ScoreAxis::head; }

 private:
  // The last of `count` buckets that begins at the distance or before it.
  TESSERA_HD int bucket(int distance, int count) const {
    int low = 0, high = count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (from[middle] <= distance ? low : high) = middle;
    }
    return low;
  }
};

// The least distances of `count` buckets. Half of them hold one distance each; beyond, bucket b
// begins where log(distance / exact) / log(most / exact) · (count − exact) reaches b − exact.
void set_buckets(int32_t* from, int count, int64_t most) {
  const int exact = count / 2;
  const double whole = std::log(static_cast<double>(most) / exact);
  for (int b = 0; b < exact; ++b) from[b] = b;
  for (int b = exact; b < count; ++b) {
    const int wanted = b - exact;
    const auto reached = [&](int32_t distance) {
      return std::log(static_cast<double>(distance) / exact) / whole * (count - exact) >= wanted;
    };
    // Near enough for the rounding of this power.
    const double near = exact * std::exp(whole * wanted / (count - exact));
    auto distance = std::max(exact, static_cast<int32_t>(near) - 2);
    while (!reached(distance)) ++distance;
    from[b] = distance;
  }
}

struct Bias : Addition {
  static constexpr std::string_view name = "bias";
  int64_t batch, head, query, key;
  Shape table_shape(int, const ScoreSizes& sizes) const {
    const auto size = [](int64_t step, int64_t all) { return step == 0 ? 1 : all; };
    return {size(batch, sizes.batch), size(head, sizes.heads), size(query, sizes.queries),
            size(key, sizes.keys)};
  }
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

Score clamped_bias(const Tensor& table, int64_t left) {
  return make_score(ClampedBias{{per_head(table, ClampedBias::name), table.size(1), left}},
                    {table});
}

Score relu_squared(const Tensor& table, int64_t left) {
  return make_score(
      BiasedReluSquared{{per_head(table, BiasedReluSquared::name), table.size(1), left}}, {table});
}

Score distance_bias(const Tensor& table) {
  return make_score(DistanceBias{{}, per_head(table, DistanceBias::name), table.size(1)}, {table});
}

Score bucket_bias(const Tensor& table, int64_t max_distance, bool bidirectional) {
  check(table.rank() == 2 && table.size(0) >= 4 && table.size(0) <= BucketBias::kMost,
        "bucket_bias: wants (4 ≤ buckets ≤ {}, H), got {}", BucketBias::kMost, table.shape());
  check(max_distance > table.size(0) / 2 && max_distance < INT32_MAX,
        "bucket_bias: max_distance {} must be above {}", max_distance, table.size(0) / 2);
  const auto buckets = static_cast<int>(table.size(0));
  BucketBias f{{}, static_cast<int>(table.size(1)), buckets, bidirectional, {}};
  set_buckets(f.from, bidirectional ? buckets / 2 : buckets, max_distance);
  return make_score(f, {table});
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
