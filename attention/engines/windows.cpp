#include "tessera/attention/engines/windows.h"

#include <cmath>

namespace tessera {
namespace {

// Entry a of a list with one entry per axis, one for all, or none.
int64_t entry(const Shape& list, int64_t a, int64_t none) {
  return list.empty() ? none : list[list.rank() == 1 ? 0 : a];
}

void check_axes(std::string_view op, const Shape& shape) {
  check(shape.rank() >= 1 && shape.rank() <= kAxes, "{}: the grid is {}; it must have 1 to {} axes",
        op, shape, kAxes);
  int64_t tokens = 1;
  for (int64_t n : shape) {
    check(n >= 1 && n < int64_t{1} << 30, "{}: an axis of the grid {} is empty or too long", op,
          shape);
    tokens *= n;
    check(tokens < int64_t{1} << 30, "{}: the grid {} has too many tokens", op, shape);
  }
}

void check_list(std::string_view op, std::string_view what, const Shape& list, int64_t axes) {
  check(list.rank() == axes || list.rank() <= 1, "{}: {} is {} for {} axes; give one for each", op,
        what, list, axes);
}

// make(a): the windows of axis a of the grid.
template <class Make>
WindowRule rule_of(const Shape& shape, const Make& make) {
  WindowRule rule;
  rule.axes = static_cast<int>(shape.rank());
  for (int64_t a = 0; a < shape.rank(); ++a) {
    rule.axis[kAxes - shape.rank() + a] = make(a);
  }
  return rule;
}

int narrow(int64_t n) {
  return static_cast<int>(n);
}

}  // namespace

int64_t count_entries(const WindowRule& rule) {
  int64_t n = 1;
  for (const AxisWindows& x : rule.axis) {
    int64_t entries = 0;
    for (int residue = 0; residue < x.dilation; ++residue) {
      const int length = x.line_keys(residue), queries = x.line_queries(residue);
      if (x.block == 0 && !x.causal) {
        entries += int64_t{queries} * x.window;
        continue;
      }
      for (int i = 0; i < queries; ++i) {
        const IndexRange r = x.keys_of(i, length);
        entries += std::max(r.end - r.begin, 0);
      }
    }
    n *= entries;
  }
  return n;
}

namespace {

// Tokens of the other side that the tiles of an axis meet, estimated from some in its middle.
double meetings(const AxisWindows& x, bool of_keys, int tile) {
  constexpr int kLooked = 8;
  const int length = of_keys ? x.line_keys(0) : x.line_queries(0);
  const int tiles = (length + tile - 1) / tile, first = std::max(0, (tiles - kLooked) / 2);
  const int last = std::min(tiles, first + kLooked);
  double met = 0;
  for (int t = first; t < last; ++t) {
    const int begin = t * tile, end = std::min(begin + tile, length) - 1;
    met += of_keys ? x.queries_of(end, 0).end - x.queries_of(begin, 0).begin
                   : x.keys_of(end, x.line_keys(0)).end - x.keys_of(begin, x.line_keys(0)).begin;
  }
  return std::max(met, 1.0) * tiles / (last - first);
}

}  // namespace

GridTiles cut_grid(const WindowRule& rule, bool of_keys, int low, int high, int overhead) {
  std::vector<double> met[kAxes];  // by tiles of 1, 2, 4, … tokens
  for (int a = 0; a < kAxes; ++a) {
    for (int n = 1; n <= high; n *= 2) met[a].push_back(meetings(rule.axis[a], of_keys, n));
  }
  int best[kAxes] = {1, 1, 1};
  double least = INFINITY;
  const size_t sizes = met[0].size();
  for (size_t z = 0; z < sizes; ++z) {
    for (size_t y = 0; y + z < sizes; ++y) {
      for (size_t x = 0; x + y + z < sizes; ++x) {
        const int volume = 1 << (x + y + z);
        const double cost = (volume + overhead) * met[0][z] * met[1][y] * met[2][x];
        if (volume < low || cost >= least) continue;
        least = cost;
        best[0] = 1 << z;
        best[1] = 1 << y;
        best[2] = 1 << x;
      }
    }
  }
  return {rule, best, of_keys};
}

WindowRule neighborhood_windows(const Neighborhood& n) {
  constexpr std::string_view op = "neighborhood_windows";
  const int64_t axes = n.shape.rank();
  check_axes(op, n.shape);
  check(!n.window.empty(), "{}: the window is missing", op);
  check_list(op, "window", n.window, axes);
  check_list(op, "dilation", n.dilation, axes);
  check_list(op, "stride", n.stride, axes);
  const auto flags = static_cast<int64_t>(n.causal.size());
  check(flags == axes || flags <= 1, "{}: {} causal flags for {} axes", op, flags, axes);
  return rule_of(n.shape, [&](int64_t a) {
    const int64_t length = n.shape[a], window = entry(n.window, a, 1);
    const int64_t dilation = entry(n.dilation, a, 1), stride = entry(n.stride, a, 1);
    check(window >= 1 && dilation >= 1, "{}: window {} and dilation {} must be at least 1", op,
          window, dilation);
    check(window <= length / dilation,
          "{}: a window of {} keys with dilation {} does not fit the {} tokens of axis {}", op,
          window, dilation, length, a);
    check(stride >= 1 && stride <= window, "{}: the stride is {}; it must be 1 to the window, {}",
          op, stride, window);
    AxisWindows x{narrow(length), narrow(length), narrow(window), narrow(dilation), narrow(stride)};
    x.causal = flags > 0 && n.causal[static_cast<size_t>(flags == 1 ? 0 : a)];
    return x;
  });
}

WindowRule halo_windows(const HaloBlocks& h) {
  constexpr std::string_view op = "halo_windows";
  const int64_t axes = h.shape.rank();
  check_axes(op, h.shape);
  check(!h.block.empty() && h.every >= 1, "{}: the block is missing, or every {} is below 1", op,
        h.every);
  check_list(op, "block", h.block, axes);
  check_list(op, "halo", h.halo, axes);
  return rule_of(h.shape, [&](int64_t a) {
    const int64_t length = h.shape[a], block = entry(h.block, a, 1), halo = entry(h.halo, a, 0);
    check(halo >= 0 && halo < int64_t{1} << 29, "{}: the halo is {}", op, halo);
    check(block >= 1 && length % block == 0, "{}: blocks of {} do not divide {} tokens", op, block,
          length);
    check(block % h.every == 0, "{}: every {}-th query does not divide a block of {}", op, h.every,
          block);
    AxisWindows x{narrow(length / h.every), narrow(length + (h.padded ? 2 * halo : 0)),
                  narrow(block + 2 * halo)};
    x.block = narrow(block / h.every);
    x.step = narrow(block);
    x.first = h.padded ? 0 : narrow(-halo);
    return x;
  });
}

WindowRule shifted_windows(const Shape& shape, const Shape& window, const Shape& shift) {
  constexpr std::string_view op = "shifted_windows";
  const int64_t axes = shape.rank();
  check_axes(op, shape);
  check(!window.empty(), "{}: the window is missing", op);
  check_list(op, "window", window, axes);
  check_list(op, "shift", shift, axes);
  return rule_of(shape, [&](int64_t a) {
    const int64_t size = entry(window, a, 1), moved = entry(shift, a, 0);
    check(size >= 1 && size <= shape[a], "{}: a window of {} does not fit the {} tokens of axis {}",
          op, size, shape[a], a);
    check(moved >= 0 && moved < size, "{}: the shift is {}; it must be below the window, {}", op,
          moved, size);
    AxisWindows x{narrow(shape[a]), narrow(shape[a]), narrow(size)};
    x.block = x.step = narrow(size);
    x.phase = moved == 0 ? 0 : narrow(size - moved);
    x.first = -x.phase;
    return x;
  });
}

}  // namespace tessera
