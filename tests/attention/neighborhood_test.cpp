#include "tessera/attention/engines/neighborhood.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/attention/engines/dense.h"
#include "tessera/attention/engines/scores.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/allocator.h"
#include "tessera/core/create.h"
#include "tessera/core/parallel.h"
#include "tessera/core/random.h"
#include "tessera/tests/attention/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

Inputs random_inputs(const WindowRule& rule, int64_t heads, int64_t key_heads, int64_t width) {
  auto leaf = [&](int64_t h, int64_t n) {
    return randn({2, h, n, width}, DType::f64).set_requires_grad();
  };
  return {leaf(heads, rule.queries()), leaf(key_heads, rule.keys()), leaf(key_heads, rule.keys())};
}

// Output, logsumexp and gradients under fixed weights.
template <class Run>
TensorList results(const TensorList& leaves, const Run& run) {
  const AttentionResult r = run();
  RandomScope same(9);
  const Tensor loss = sum(r.output * randn(r.output.shape(), DType::f64)) +
                      sum(r.logsumexp * randn(r.logsumexp.shape(), DType::f64));
  TensorList list = grad({loss}, leaves);
  list.push_back(r.output);
  list.push_back(r.logsumexp);
  return list;
}

void check_equal(const TensorList& a, const TensorList& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    CHECK(worst(a[i], b[i]) < 1e-10);
  }
}

// The windows of all tokens of a line.
std::vector<std::pair<int, int>> intervals(const AxisWindows& axis) {
  std::vector<std::pair<int, int>> list;
  for (int i = 0; i < axis.line_queries(0); ++i) {
    const IndexRange r = axis.keys_of(i, axis.line_keys(0));
    list.emplace_back(r.begin, r.end);
  }
  return list;
}

void check_axis(const AxisWindows& axis) {
  for (int residue = 0; residue < axis.dilation; ++residue) {
    const int queries = axis.line_queries(residue), keys = axis.line_keys(residue);
    IndexRange before{0, 0};
    for (int i = 0; i < queries; ++i) {
      const IndexRange r = axis.keys_of(i, keys);
      REQUIRE((r.begin >= before.begin && r.end >= before.end && r.begin >= 0 && r.end <= keys));
      if (axis.block == 0 && !axis.causal) REQUIRE(r.end - r.begin == axis.window);
      before = r;
    }
    for (int j = 0; j < keys; ++j) {
      const IndexRange seen_by = axis.queries_of(j, residue);
      for (int i = 0; i < queries; ++i) {
        REQUIRE(axis.keys_of(i, keys).contains(j) == seen_by.contains(i));
      }
    }
  }
}

std::vector<WindowRule> some_windows() {
  return {
      neighborhood_windows({.shape = {200}, .window = {9}}),
      neighborhood_windows({.shape = {131}, .window = {40}, .dilation = {3}, .causal = {true}}),
      neighborhood_windows({.shape = {100}, .window = {8}, .dilation = {2}, .stride = {3}}),
      neighborhood_windows({.shape = {19, 23}, .window = {5, 7}}),
      neighborhood_windows({.shape = {17, 22}, .window = {4, 5}, .dilation = {2, 3}}),
      neighborhood_windows(
          {.shape = {13, 11}, .window = {5, 3}, .stride = {2, 3}, .causal = {true, false}}),
      neighborhood_windows({.shape = {5, 7, 9}, .window = {3, 4, 5}}),
      neighborhood_windows({.shape = {6, 5, 8},
                            .window = {2, 3, 3},
                            .dilation = {2, 1, 2},
                            .causal = {true, false, false}}),
      halo_windows({.shape = {12, 16}, .block = {4, 8}, .halo = {2, 3}}),
      halo_windows({.shape = {12, 8}, .block = {4}, .halo = {1}, .padded = true, .every = 2}),
      shifted_windows({14, 15}, {4, 7}, {2, 3}),
      shifted_windows({4, 6, 8}, {2, 3, 4}, {1, 0, 2}),
  };
}

}  // namespace

TEST_CASE("windows of a line shift at its borders as in the definition") {
  using List = std::vector<std::pair<int, int>>;
  auto of = [](const Neighborhood& n) { return intervals(neighborhood_windows(n).axis[2]); };
  CHECK(of({.shape = {8}, .window = {3}}) ==
        List{{0, 3}, {0, 3}, {1, 4}, {2, 5}, {3, 6}, {4, 7}, {5, 8}, {5, 8}});
  CHECK(of({.shape = {6}, .window = {4}}) == List{{0, 4}, {0, 4}, {0, 4}, {1, 5}, {2, 6}, {2, 6}});
  CHECK(of({.shape = {10}, .window = {5}, .stride = {3}}) ==
        List{{0, 5}, {0, 5}, {0, 5}, {2, 7}, {2, 7}, {2, 7}, {5, 10}, {5, 10}, {5, 10}, {5, 10}});
  CHECK(of({.shape = {5}, .window = {3}, .stride = {2}, .causal = {true}}) ==
        List{{0, 1}, {0, 2}, {1, 3}, {1, 4}, {2, 5}});
  CHECK(of({.shape = {7}, .window = {3}, .dilation = {2}}) ==
        List{{0, 3}, {0, 3}, {1, 4}, {1, 4}});  // the line of tokens 0, 2, 4, 6
  CHECK(intervals(halo_windows({.shape = {6}, .block = {3}, .halo = {1}}).axis[2]) ==
        List{{0, 4}, {0, 4}, {0, 4}, {2, 6}, {2, 6}, {2, 6}});
  CHECK(intervals(shifted_windows({6}, {4}, {1}).axis[2]) ==
        List{{0, 1}, {1, 5}, {1, 5}, {1, 5}, {1, 5}, {5, 6}});
}

TEST_CASE("queries that see a key are found as an interval, in every kind of windows") {
  for (int64_t length = 1; length < 18; ++length) {
    for (int64_t window = 1; window <= length; ++window) {
      for (int64_t dilation = 1; dilation * window <= length; ++dilation) {
        for (int64_t stride = 1; stride <= window; ++stride) {
          for (bool causal : {false, true}) {
            check_axis(
                neighborhood_windows({{length}, {window}, {dilation}, {stride}, {causal}}).axis[2]);
          }
        }
      }
      for (int64_t shift = 0; shift < window; ++shift) {
        check_axis(shifted_windows({length}, {window}, {shift}).axis[2]);
      }
    }
  }
  for (int64_t halo = 0; halo < 9; ++halo) {
    for (bool padded : {false, true}) {
      for (int64_t every : {1, 2, 4}) {
        check_axis(halo_windows({{12}, {4}, {halo}, padded, every}).axis[2]);
      }
    }
  }
}

TEST_CASE("tiles of a grid hold every token once, and their boxes all that they see") {
  for (const WindowRule& rule : some_windows()) {
    for (bool of_keys : {false, true}) {
      const GridTiles cut = cut_grid(rule, of_keys, 8, 32, 4);
      std::vector<int> seen(static_cast<size_t>(of_keys ? rule.keys() : rule.queries()));
      int at[kAxes];
      for (int64_t t = 0; t < cut.count(rule); ++t) {
        const GridBox box = of_keys ? cut.keys(rule, t) : cut.queries(rule, t);
        if (box.is_empty()) continue;
        const GridBox other = of_keys ? rule.queries_of(box) : rule.keys_of(box);
        std::vector<bool> listed(static_cast<size_t>(of_keys ? rule.queries() : rule.keys()));
        for (int n = 0; n < other.count(); ++n) {
          other.locate(n, at);
          listed[static_cast<size_t>(of_keys ? rule.query_token(other, at)
                                             : rule.key_token(other, at))] = true;
        }
        for (int n = 0; n < box.count(); ++n) {
          box.locate(n, at);
          const int token = of_keys ? rule.key_token(box, at) : rule.query_token(box, at);
          ++seen[static_cast<size_t>(token)];
          for (int j = 0; j < static_cast<int>(listed.size()); ++j) {
            const bool visible = of_keys ? rule.visible(j, token) : rule.visible(token, j);
            if (visible) REQUIRE(listed[static_cast<size_t>(j)]);
          }
        }
      }
      CHECK(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
    }
  }
}

TEST_CASE("the neighborhood engine equals its reference in values and gradients") {
  RandomScope scope(1);
  for (const WindowRule& rule : some_windows()) {
    const Inputs in = random_inputs(rule, 4, 2, 8);
    const NeighborhoodOptions options{.windows = rule};
    const TensorList leaves{in.q, in.k, in.v};
    check_equal(results(leaves, [&] { return neighborhood_attention(in.q, in.k, in.v, options); }),
                results(leaves, [&] {
                  return neighborhood_attention_reference(in.q, in.k, in.v, options);
                }));
  }
}

TEST_CASE("a window over the whole map is dense attention") {
  RandomScope scope(2);
  for (const Shape& shape : {Shape{70}, Shape{9, 8}, Shape{4, 5, 3}}) {
    const WindowRule rule = neighborhood_windows({.shape = shape, .window = shape});
    const Inputs in = random_inputs(rule, 2, 2, 8);
    const TensorList leaves{in.q, in.k, in.v};
    check_equal(results(leaves, [&] { return neighborhood_attention(in.q, in.k, in.v, {rule}); }),
                results(leaves, [&] { return dense_attention(in.q, in.k, in.v); }));
  }
}

TEST_CASE("a causal axis is dense attention over the last keys") {
  RandomScope scope(3);
  for (int64_t window : {1, 7, 100}) {
    const WindowRule rule =
        neighborhood_windows({.shape = {100}, .window = {window}, .causal = {true}});
    const Inputs in = random_inputs(rule, 2, 1, 8);
    const TensorList leaves{in.q, in.k, in.v};
    const AttentionOptions last{.causal = true, .left = window - 1};
    check_equal(results(leaves, [&] { return neighborhood_attention(in.q, in.k, in.v, {rule}); }),
                results(leaves, [&] { return dense_attention(in.q, in.k, in.v, last); }));
  }
}

TEST_CASE("the future of a causal axis does not leak") {
  RandomScope scope(4);
  const WindowRule rule = neighborhood_windows(
      {.shape = {6, 5}, .window = {4, 3}, .stride = {2, 1}, .causal = {true, false}});
  const Inputs in = random_inputs(rule, 1, 1, 4);
  NoGrad off;
  const Tensor before = neighborhood_attention(in.q, in.k, in.v, {rule}).output;
  for (int64_t row = 1; row < 6; ++row) {
    auto changed = [&](const Tensor& x) {
      const Tensor end = randn({2, 1, (6 - row) * 5, 4}, DType::f64);
      return concat({slice(x.detach(), 2, 0, row * 5), end}, 2);
    };
    const Tensor after = neighborhood_attention(in.q, changed(in.k), changed(in.v), {rule}).output;
    CHECK(worst(slice(after, 2, 0, row * 5), slice(before, 2, 0, row * 5)) == 0);
    CHECK(worst(slice(after, 2, row * 5, 30), slice(before, 2, row * 5, 30)) > 0);
  }
}

TEST_CASE("dilated windows are independent problems on the sublattices") {
  RandomScope scope(5);
  const WindowRule rule =
      neighborhood_windows({.shape = {7, 8}, .window = {3, 2}, .dilation = {2, 3}});
  const Inputs in = random_inputs(rule, 2, 2, 4);
  NoGrad off;
  const Tensor whole =
      reshape(neighborhood_attention(in.q, in.k, in.v, {rule}).output, {2, 2, 7, 8, 4});
  for (int64_t y = 0; y < 2; ++y) {
    for (int64_t x = 0; x < 3; ++x) {
      auto part = [&](const Tensor& t) {
        const Tensor map = reshape(t, {2, 2, 7, 8, 4});
        return slice(slice(map, 2, y, 7, 2), 3, x, 8, 3);
      };
      const Tensor sub = part(in.q);
      const Shape shape{sub.size(2), sub.size(3)};
      auto flat = [&](const Tensor& t) { return reshape(part(t), {2, 2, shape.numel(), 4}); };
      const Tensor alone =
          neighborhood_attention(flat(in.q), flat(in.k), flat(in.v),
                                 {neighborhood_windows({.shape = shape, .window = {3, 2}})})
              .output;
      CHECK(worst(alone, flat(whole)) < 1e-12);
    }
  }
}

TEST_CASE("a stride of the whole window is a partition into windows") {
  RandomScope scope(6);
  const WindowRule strided =
      neighborhood_windows({.shape = {9, 8}, .window = {3, 4}, .stride = {3, 4}});
  const WindowRule partition = shifted_windows({9, 8}, {3, 4});
  const Inputs in = random_inputs(strided, 1, 1, 4);
  const TensorList leaves{in.q, in.k, in.v};
  check_equal(
      results(leaves, [&] { return neighborhood_attention(in.q, in.k, in.v, {strided}); }),
      results(leaves, [&] { return neighborhood_attention(in.q, in.k, in.v, {partition}); }));
}

TEST_CASE("shifted windows are a cyclic shift in which tokens of one region see one another") {
  RandomScope scope(7);
  const int64_t height = 6, width = 8, window = 2, shift = 1;
  const WindowRule rule = shifted_windows({height, width}, {window}, {shift});
  for (int64_t i = 0; i < height * width; ++i) {
    for (int64_t j = 0; j < height * width; ++j) {
      auto together = [&](int64_t a, int64_t b, int64_t n) {
        const int64_t x = (a + n - shift) % n, y = (b + n - shift) % n;  // after the shift
        auto region = [&](int64_t t) { return t < n - window ? 0 : t < n - shift ? 1 : 2; };
        return x / window == y / window && region(x) == region(y);
      };
      const bool visible =
          together(i / width, j / width, height) && together(i % width, j % width, width);
      REQUIRE(rule.visible(static_cast<int>(i), static_cast<int>(j)) == visible);
    }
  }
}

TEST_CASE("halo attention with relative logits equals blocks cut out by hand") {
  RandomScope scope(8);
  const int64_t size = 8, block = 4, halo = 2, window = block + 2 * halo, width = 6;
  const WindowRule rule = halo_windows({.shape = {size, size}, .block = {block}, .halo = {halo}});
  const Inputs in = random_inputs(rule, 2, 2, width);
  const Tensor rows = randn({2 * window - 1, width}, DType::f64).set_requires_grad();
  const Tensor columns = randn({2 * window - 1, width}, DType::f64).set_requires_grad();
  const TensorList leaves{in.q, in.k, in.v, rows, columns};
  const TensorList fast = results(leaves, [&] {
    const TensorList tables{matmul(in.q, transpose(rows, 0, 1)),
                            matmul(in.q, transpose(columns, 0, 1))};
    return neighborhood_attention(in.q, in.k, in.v,
                                  {.windows = rule, .score = contextual_bias(tables, rule)});
  });
  for (int64_t r = 0; r < 2 * halo; ++r) {  // no query has a key that far before it
    for (size_t table : {3, 4}) {
      CHECK(worst(select(fast[table], 0, r), zeros({width}, {DType::f64, {}})) == 0);
    }
  }
  const auto q = in.q.to_vector<double>(), k = in.k.to_vector<double>();
  const auto v = in.v.to_vector<double>();
  const auto rh = rows.to_vector<double>(), rw = columns.to_vector<double>();
  const auto out = fast[5].to_vector<double>();
  auto dot = [&](const std::vector<double>& a, int64_t i, const std::vector<double>& b, int64_t j) {
    double s = 0;
    for (int64_t d = 0; d < width; ++d) {
      s += a[static_cast<size_t>(i * width + d)] * b[static_cast<size_t>(j * width + d)];
    }
    return s;
  };
  double error = 0;
  for (int64_t head = 0; head < 4; ++head) {
    for (int64_t i = 0; i < size * size; ++i) {
      const int64_t y = i / size % block, x = i % block, token = head * size * size + i;
      const int64_t top = i / size - y - halo, left = i % size - x - halo;
      double total = 0;
      std::vector<double> want(static_cast<size_t>(width));
      for (int64_t wy = 0; wy < window; ++wy) {
        for (int64_t wx = 0; wx < window; ++wx) {
          const int64_t ky = top + wy, kx = left + wx;
          if (ky < 0 || kx < 0 || ky >= size || kx >= size) continue;
          const int64_t other = head * size * size + ky * size + kx;
          const double p = std::exp(dot(q, token, k, other) / std::sqrt(double(width)) +
                                    dot(q, token, rh, wy - y + window - 1) +
                                    dot(q, token, rw, wx - x + window - 1));
          total += p;
          for (int64_t d = 0; d < width; ++d) {
            want[static_cast<size_t>(d)] += p * v[static_cast<size_t>(other * width + d)];
          }
        }
      }
      for (int64_t d = 0; d < width; ++d) {
        error = std::max(error, std::abs(out[static_cast<size_t>(token * width + d)] -
                                         want[static_cast<size_t>(d)] / total));
      }
    }
  }
  CHECK(error < 1e-10);
}

TEST_CASE("score functors reach the neighborhood engine") {
  RandomScope scope(10);
  const WindowRule plane = neighborhood_windows({.shape = {12, 13}, .window = {5, 3}});
  const WindowRule line = neighborhood_windows({.shape = {150}, .window = {9}, .dilation = {2}});
  struct Case {
    WindowRule rule;
    std::function<Score(const Tensor&)> score;
    Shape table;
  };
  const std::vector<Case> cases{
      {plane, [&](const Tensor& t) { return grid_bias(t, plane); }, {4, 9, 5}},
      {line, [&](const Tensor& t) { return grid_bias(t, line); }, {1, 17}},
      {line, [](const Tensor& t) { return offset_bias(t, 8); }, {4, 17}},
      {plane, [](const Tensor& t) { return alibi(t); }, {4}},
  };
  for (const Case& c : cases) {
    const Inputs in = random_inputs(c.rule, 4, 2, 4);
    const Tensor table = randn(c.table, DType::f64).set_requires_grad();
    const TensorList leaves{in.q, in.k, in.v, table};
    const NeighborhoodOptions options{.windows = c.rule, .score = c.score(table)};
    check_equal(results(leaves, [&] { return neighborhood_attention(in.q, in.k, in.v, options); }),
                results(leaves, [&] {
                  return neighborhood_attention_reference(in.q, in.k, in.v, options);
                }));
  }
}

TEST_CASE("score entries are counted: the window of every query, no more") {
  RandomScope scope(11);
  for (const WindowRule& rule : some_windows()) {
    const Inputs in = random_inputs(rule, 3, 3, 2);
    int64_t visible = 0;
    for (int i = 0; i < rule.queries(); ++i) {
      const GridBox window = rule.window_of(i);
      visible += window.count();
      const AxisWindows* x = rule.axis;
      if (x[2].block == 0 && !x[0].causal && !x[1].causal && !x[2].causal) {
        CHECK(window.count() == x[0].window * x[1].window * x[2].window);
      }
    }
    const int64_t before = score_entries();
    neighborhood_attention(in.q, in.k, in.v, {rule});
    CHECK(score_entries() - before == 2 * 3 * visible);
    CHECK(count_entries(rule) == visible);
  }
}

TEST_CASE("neighborhood attention is bit-equal for any number of threads") {
  RandomScope scope(12);
  const WindowRule rule = neighborhood_windows({.shape = {20, 21}, .window = {5}});
  const Tensor q = randn({1, 3, 420, 16});
  const int threads = num_threads();
  auto run = [&](int count) {
    set_num_threads(count);
    Tensor x = q.detach(), table = full({3, 9, 9}, 0.1);
    x.set_requires_grad();
    table.set_requires_grad();
    const Tensor y =
        neighborhood_attention(x, x, x, {.windows = rule, .score = grid_bias(table, rule)}).output;
    sum(y * y).backward();
    auto result = y.to_vector<float>();
    for (const Tensor& g : {x.grad(), table.grad()}) {
      const auto values = g.to_vector<float>();
      result.insert(result.end(), values.begin(), values.end());
    }
    return result;
  };
  const auto one = run(1);
  const auto two = run(2);
  set_num_threads(threads);
  CHECK(one == two);
}

TEST_CASE("neighborhood attention needs memory linear in the tokens, whatever the window") {
  RandomScope scope(13);
  auto peak = [](int64_t side, int64_t window) {
    const WindowRule rule = neighborhood_windows({.shape = {side, side}, .window = {window}});
    Tensor x = randn({1, 1, side * side, 8});
    x.set_requires_grad();
    Allocator& memory = allocator({});
    memory.reset_peak();
    const int64_t before = memory.stats().live;
    sum(neighborhood_attention(x, x, x, {rule}).output).backward();
    return static_cast<double>(memory.stats().peak - before);
  };
  CHECK(peak(64, 5) < 4.5 * peak(32, 5));
  CHECK(peak(32, 21) <= peak(32, 5));
}

TEST_CASE("windows that do not fit are refused") {
  using doctest::Contains;
  CHECK_THROWS_WITH_AS(neighborhood_windows({.shape = {8, 6}, .window = {7}}),
                       Contains("window of 7 keys with dilation 1 does not fit the 6 tokens"),
                       Error);
  CHECK_THROWS_WITH_AS(neighborhood_windows({.shape = {8}, .window = {3}, .dilation = {3}}),
                       Contains("dilation 3 does not fit"), Error);
  CHECK_THROWS_WITH_AS(neighborhood_windows({.shape = {8}, .window = {3}, .stride = {4}}),
                       Contains("stride is 4"), Error);
  CHECK_THROWS_AS(neighborhood_windows({.shape = {8, 8}, .window = {3, 3, 3}}), Error);
  CHECK_THROWS_AS(neighborhood_windows({.shape = {2, 2, 2, 2}, .window = {1}}), Error);
  CHECK_THROWS_AS(neighborhood_windows({.shape = {8}, .window = {}}), Error);
  CHECK_THROWS_AS(neighborhood_windows({.shape = {0}, .window = {1}}), Error);
  CHECK_THROWS_WITH_AS(halo_windows({.shape = {7}, .block = {2}, .halo = {1}}),
                       Contains("blocks of 2 do not divide 7 tokens"), Error);
  CHECK_THROWS_AS(shifted_windows({8}, {4}, {4}), Error);
  const WindowRule rule = neighborhood_windows({.shape = {4, 4}, .window = {3}});
  CHECK_THROWS_WITH_AS(grid_bias(zeros({1, 5, 3}), rule), Contains("grid_bias: the table is"),
                       Error);
  CHECK_THROWS_AS(contextual_bias({zeros({1, 1, 16, 5})}, rule), Error);
}

namespace {

// On a device: windows, heads of queries and keys, widths of keys and values, and a bias or not.
struct Case {
  std::string label;
  WindowRule rule;
  int64_t heads, key_heads, width, value_width;
  enum class Bias { none, fixed, learned } bias = Bias::none;
};

std::vector<Case> cases() {
  using Bias = Case::Bias;
  const WindowRule plane = neighborhood_windows({.shape = {20, 23}, .window = {7, 5}});
  const WindowRule line = neighborhood_windows({.shape = {300}, .window = {31}});
  const WindowRule space = neighborhood_windows({.shape = {5, 9, 11}, .window = {3, 5, 4}});
  std::vector<Case> list{
      {"line", line, 2, 2, 64, 64},
      {"line D 128", line, 2, 1, 128, 128},
      {"line D 24, 40", line, 2, 2, 24, 40},
      {"plane", plane, 2, 2, 64, 64},
      {"plane D 128", plane, 4, 2, 128, 128},
      {"plane D 32", plane, 2, 2, 32, 32},
      {"plane D 5, 3", plane, 2, 2, 5, 3},
      {"space", space, 2, 2, 64, 64},
      {"space D 96, 128", space, 2, 2, 96, 128},
      {"wider than tensor cores take", plane, 2, 2, 160, 160},
      {"plane, bias", plane, 2, 2, 64, 64, Bias::fixed},
      {"plane D 128, bias", plane, 2, 1, 128, 128, Bias::fixed},
      {"space, bias", neighborhood_windows({.shape = {5, 9, 11}, .window = {3, 5, 3}}), 4, 2, 64,
       64, Bias::fixed},
      {"plane, learned bias", plane, 2, 2, 32, 32, Bias::learned},
      {"line, learned bias", line, 4, 2, 64, 64, Bias::learned},
  };
  for (const WindowRule& rule : some_windows()) list.push_back({"another", rule, 4, 2, 64, 64});
  const WindowRule all = neighborhood_windows({.shape = {16, 17}, .window = {16, 17}});
  list.push_back({"whole map", all, 2, 2, 64, 64});
  list.push_back({"one token", neighborhood_windows({.shape = {1}, .window = {1}}), 1, 1, 64, 64});
  list.push_back({"windows of Swin with a bias", shifted_windows({14, 21}, {7}, {3}), 3, 3, 32, 32,
                  Bias::fixed});
  list.push_back({"a causal line",
                  neighborhood_windows({.shape = {1000}, .window = {200}, .causal = {true}}), 2, 1,
                  64, 64});
  return list;
}

TensorList inputs_of(const Case& c) {
  RandomScope scope(14);
  auto heads = [](int64_t h, int64_t n, int64_t d) {
    return transpose(randn({2, n, h, d}, DType::f64), 1, 2);
  };
  TensorList list{heads(c.heads, c.rule.queries(), c.width),
                  heads(c.key_heads, c.rule.keys(), c.width),
                  heads(c.key_heads, c.rule.keys(), c.value_width)};
  if (c.bias == Case::Bias::none) return list;
  Shape table{c.heads};
  for (int a = kAxes - c.rule.axes; a < kAxes; ++a) {
    table.push_back(2 * c.rule.axis[a].window - 1);
  }
  list.push_back(randn(table, DType::f64));
  return list;
}

template <class Engine>
TensorFunction function_of(const Case& c, Engine engine) {
  return [c, engine](const TensorList& in) {
    NeighborhoodOptions options{.windows = c.rule};
    if (in.size() > 3) {
      const bool learned = c.bias == Case::Bias::learned;
      options.score = grid_bias(learned ? in[3] : in[3].detach(), c.rule);
    }
    const AttentionResult r = engine(in[0], in[1], in[2], options);
    return TensorList{r.output, r.logsumexp};
  };
}

void check_case(Failures& failures, const Case& c, DType dtype) {
  const std::string subject = fmt::format("{}", dtype);
  const TensorList inputs = inputs_of(c);
  auto on = [&](auto engine, DType stored, Device device) {
    TensorList in = inputs_for(inputs, dtype, stored, device, true);
    if (c.bias == Case::Bias::fixed) in[3] = in[3].detach();
    return evaluate(function_of(c, engine), in, dtype);
  };
  Results want, got, again, composed;
  const bool ran = attempt_case(failures, subject, c.label, [&] {
    want = on(neighborhood_attention, DType::f64, {});
    got = on(neighborhood_attention, dtype, kGpu);
    again = on(neighborhood_attention, dtype, kGpu);
  });
  if (!ran) return;
  if (is_half(dtype)) {
    attempt(failures, subject, c.label + ", composed",
            [&] { composed = on(neighborhood_attention_reference, dtype, kGpu); });
  }
  compare(failures, subject, c.label, dtype, got, want, composed);
  compare_bits(failures, subject, c.label, got, again);
}

}  // namespace

TEST_SUITE("cuda") {
  TEST_CASE("neighborhood attention on CUDA gives what it gives on the CPU in f64") {
    if (!has_gpu()) return;
    for (DType dtype : kFloating) {
      Failures failures(fmt::format("neighborhood attention in {}", dtype));
      for (const Case& c : cases()) check_case(failures, c, dtype);
      failures.report();
    }
  }

  TEST_CASE("neighborhood attention on CUDA gives the same bits every time on a full device") {
    if (!has_gpu()) return;
    const Case c{"full", neighborhood_windows({.shape = {64, 64}, .window = {13}}), 16, 16, 64, 64};
    const TensorList inputs = inputs_for(inputs_of(c), DType::bf16, DType::bf16, kGpu, true);
    const TensorFunction run = function_of(c, neighborhood_attention);
    auto results = [&] {
      const TensorList out = run(inputs);
      const TensorList g = grad({out[0]}, inputs, {cotangent(out[0], 0, DType::bf16)});
      Results list{{"output", kernels::to_device(out[0].detach(), {})}};
      for (const Tensor& x : g) list.emplace_back("gradient", kernels::to_device(x, {}));
      return list;
    };
    Failures failures("runs");
    const Results first = results();
    for (int i = 0; i < 20; ++i) compare_bits(failures, "bf16", c.label, first, results());
    failures.report();
  }

  TEST_CASE("neighborhood attention on CUDA needs memory linear in the tokens") {
    if (!has_gpu()) return;
    auto peak = [](int64_t side) {
      const WindowRule rule = neighborhood_windows({.shape = {side, side}, .window = {31}});
      Tensor x =
          kernels::to_device(kernels::cast(randn({1, 2, side * side, 64}), DType::bf16), kGpu);
      x.set_requires_grad();
      const Tensor weights = full(x.shape(), 1, {DType::bf16, kGpu});
      Allocator& memory = allocator(kGpu);
      memory.reset_peak();
      const int64_t before = memory.stats().live;
      grad({neighborhood_attention(x, x, x, {rule}).output}, {x}, {weights});
      return memory.stats().peak - before;
    };
    CHECK(peak(128) < 2 * 128 * 128 * 64 * 2 * 12);
    CHECK(peak(128) < 4.5 * static_cast<double>(peak(64)));
  }
}
