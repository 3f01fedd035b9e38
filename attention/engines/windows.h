// Windows over a grid of tokens with one to three axes: which keys a query sees, and which queries
// see a key, as plain data for both devices.
//
// Along an axis with dilation δ, tokens t ≡ r (mod δ) are a line of their own, on which token r +
// δi is number i; windows are intervals of a line. On a line of length L, query i sees
//   neighborhood  the `window` keys around its leader (itself; with a stride the middle of its
//   group
//                 of `stride` queries), shifted inward at borders so that there are always
//                 `window`;
//   causal        the last `window` keys up to the leader (the last of its group), none beyond i;
//   blocks        the keys [n·step + first, n·step + first + window) that exist, n = ⌊(i + phase) /
//                 block⌋ being its block.
// Both ends of an interval are monotone in i, so queries of an interval see one interval of keys
// and the other way round. A query of the grid sees the product over axes (Hassani et al. 2024).
#pragma once

#include "tessera/attention/engines/entry_rule.h"

namespace tessera {

constexpr int kAxes = 3;

struct AxisWindows {
  int queries = 1, keys = 1;  // tokens
  int window = 1;
  int dilation = 1, stride = 1;
  bool causal = false;
  int block = 0, phase = 0, step = 0, first = 0;  // blocks: block > 0

  bool operator==(const AxisWindows&) const = default;
  TESSERA_HD int line_queries(int residue) const {
    return dilation == 1 ? queries : (queries - residue + dilation - 1) / dilation;
  }
  TESSERA_HD int line_keys(int residue) const {
    return dilation == 1 ? keys : (keys - residue + dilation - 1) / dilation;
  }
  // The keys that query i of a line with `length` keys sees.
  TESSERA_HD IndexRange keys_of(int i, int length) const {
    if (block > 0) {
      const int begin = (i + phase) / block * step + first;
      return {most(begin, 0), least(begin + window, length)};
    }
    const int leader = leader_of(i, length);
    if (causal) return {most(leader - window + 1, 0), i + 1};
    const int begin = most(least(leader - window / 2, length - window), 0);
    return {begin, begin + window};
  }
  // Relative positions of keys are counted from here: j − origin_of(i) is j − i in a neighborhood;
  // in blocks it is the key's place in the window less the query's place in its block. It lies in
  // (−window, window).
  TESSERA_HD int origin_of(int i) const {
    if (block == 0) return i;
    const int n = (i + phase) / block;
    return n * step + first + (i + phase - n * block);
  }
  // The queries that see key j; of a neighborhood queries and keys are the same tokens.
  TESSERA_HD IndexRange queries_of(int j, int residue) const {
    const int length = line_queries(residue);
    if (block > 0) {
      const int last = floor_div(j - first, step);
      const int before = floor_div(j - first - window, step);  // the last block that ends too early
      return {clamped((before + 1) * block - phase, length),
              clamped((last + 1) * block - phase, length)};
    }
    if (causal) {
      const int group = (j + window) / stride + (j + window >= length ? 1 : 0);
      return {j, least(group * stride, length)};
    }
    const int late = stride - stride / 2 - 1;  // of a group, behind its leader
    const int begin = j < window ? 0 : (j - (window - 1) / 2 + late) / stride * stride;
    const int end = (j + window / 2 + late + 1) / stride * stride;
    return {begin, j >= length - window ? length : least(end, length)};
  }

 private:
  TESSERA_HD int leader_of(int i, int length) const {
    if (stride == 1) return i;
    return least(i / stride * stride + (causal ? stride - 1 : stride / 2), length - 1);
  }
  static TESSERA_HD int least(int a, int b) { return a < b ? a : b; }
  static TESSERA_HD int most(int a, int b) { return a > b ? a : b; }
  static TESSERA_HD int clamped(int x, int length) { return most(0, least(x, length)); }
  static TESSERA_HD int floor_div(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
};

// A box of queries or of keys: the same residues, and an interval of the line on every axis.
struct GridBox {
  IndexRange range[kAxes];
  int residue[kAxes] = {};

  TESSERA_HD int length(int axis) const { return range[axis].end - range[axis].begin; }
  TESSERA_HD bool is_empty() const {
    return range[0].is_empty() || range[1].is_empty() || range[2].is_empty();
  }
  TESSERA_HD int count() const { return is_empty() ? 0 : length(0) * length(1) * length(2); }
  // Coordinates on the lines of the n-th token, the last axis fastest.
  TESSERA_HD void locate(int n, int (&at)[kAxes]) const {
    const int row = n / length(2);
    at[2] = range[2].begin + (n - row * length(2));
    at[0] = range[0].begin + row / length(1);
    at[1] = range[1].begin + row % length(1);
  }
};

// The axes in the order of the tokens, the last one fastest; those that a grid of one or two axes
// lacks come first and hold one token.
struct WindowRule {
  AxisWindows axis[kAxes];
  int axes = 1;  // that the grid has

  bool operator==(const WindowRule&) const = default;
  TESSERA_HD int queries() const { return axis[0].queries * axis[1].queries * axis[2].queries; }
  TESSERA_HD int keys() const { return axis[0].keys * axis[1].keys * axis[2].keys; }

  // The token at coordinates on the lines of a box.
  TESSERA_HD int query_token(const GridBox& box, const int (&at)[kAxes]) const {
    int token = 0;
    for (int a = 0; a < kAxes; ++a) {
      token = token * axis[a].queries + at[a] * axis[a].dilation + box.residue[a];
    }
    return token;
  }
  TESSERA_HD int key_token(const GridBox& box, const int (&at)[kAxes]) const {
    int token = 0;
    for (int a = 0; a < kAxes; ++a) {
      token = token * axis[a].keys + at[a] * axis[a].dilation + box.residue[a];
    }
    return token;
  }
  // The smallest box of keys that holds all that the queries of a box see, and the other way round.
  TESSERA_HD GridBox keys_of(const GridBox& queries) const {
    GridBox box = queries;
    for (int a = 0; a < kAxes; ++a) {
      const int length = axis[a].line_keys(queries.residue[a]);
      box.range[a] = {axis[a].keys_of(queries.range[a].begin, length).begin,
                      axis[a].keys_of(queries.range[a].end - 1, length).end};
    }
    return box;
  }
  TESSERA_HD GridBox queries_of(const GridBox& keys) const {
    GridBox box = keys;
    for (int a = 0; a < kAxes; ++a) {
      box.range[a] = {axis[a].queries_of(keys.range[a].begin, keys.residue[a]).begin,
                      axis[a].queries_of(keys.range[a].end - 1, keys.residue[a]).end};
    }
    return box;
  }
  // What a query token sees, as a box.
  TESSERA_HD GridBox window_of(int query) const {
    GridBox box;
    for (int a = kAxes - 1; a >= 0; --a) {
      const int at = query % axis[a].queries;
      query /= axis[a].queries;
      box.residue[a] = at % axis[a].dilation;
      const int i = at / axis[a].dilation;
      box.range[a] = axis[a].keys_of(i, axis[a].line_keys(box.residue[a]));
    }
    return box;
  }
  TESSERA_HD bool visible(int query, int key) const {
    const GridBox box = window_of(query);
    for (int a = kAxes - 1; a >= 0; --a) {
      const int at = key % axis[a].keys;
      key /= axis[a].keys;
      if (at % axis[a].dilation != box.residue[a]) return false;
      if (!box.range[a].contains(at / axis[a].dilation)) return false;
    }
    return true;
  }
};

// The score entries of one head.
int64_t count_entries(const WindowRule& rule);

// A grid cut into boxes of at most tile[0] · tile[1] · tile[2] tokens of the same residues: tiles
// of queries (and, with the other function, of keys), numbered from 0.
struct GridTiles {
  int tile[kAxes] = {1, 1, 1};
  int per_line[kAxes] = {1, 1, 1};  // of the longest line; those of the others may be empty

  GridTiles() = default;
  // Of lines of queries or keys.
  GridTiles(const WindowRule& rule, const int (&tile_)[kAxes], bool of_keys) {
    for (int a = 0; a < kAxes; ++a) {
      tile[a] = tile_[a];
      const int length = of_keys ? rule.axis[a].line_keys(0) : rule.axis[a].line_queries(0);
      per_line[a] = (length + tile[a] - 1) / tile[a];
    }
  }
  TESSERA_HD int64_t count(const WindowRule& rule) const {
    int64_t n = 1;
    for (int a = 0; a < kAxes; ++a) n *= int64_t{per_line[a]} * rule.axis[a].dilation;
    return n;
  }
  TESSERA_HD GridBox queries(const WindowRule& rule, int64_t n) const {
    return box(rule, n, false);
  }
  TESSERA_HD GridBox keys(const WindowRule& rule, int64_t n) const { return box(rule, n, true); }

 private:
  // Tiles of a line first, then residues: neighbours in number share keys.
  TESSERA_HD GridBox box(const WindowRule& rule, int64_t number, bool of_keys) const {
    auto n = static_cast<int>(number);  // fewer than tokens and residues
    GridBox b;
    int at[kAxes];
    for (int a = kAxes - 1; a >= 0; --a) {
      at[a] = n % per_line[a];
      n /= per_line[a];
    }
    for (int a = kAxes - 1; a >= 0; --a) {
      const AxisWindows& axis = rule.axis[a];
      if (axis.dilation > 1) {
        b.residue[a] = n % axis.dilation;
        n /= axis.dilation;
      }
      const int length = of_keys ? axis.line_keys(b.residue[a]) : axis.line_queries(b.residue[a]);
      const int begin = at[a] * tile[a], end = begin + tile[a];
      b.range[a] = {begin, end < length ? end : length};
    }
    return b;
  }
};

// Boxes of queries (or of keys) that meet few of the other side, each of low to high tokens, a
// power of two, except where a line is short; a token of the other side costs as much as `overhead`
// entries.
GridTiles cut_grid(const WindowRule& rule, bool of_keys, int low, int high, int overhead);

// Neighborhood attention's windows (Hassani et al. 2023, 2024). Lists have one entry per axis, or
// one for all, or none: dilation 1, stride 1, not causal. window · dilation ≤ shape, stride ≤
// window.
struct Neighborhood {
  Shape shape;  // tokens per axis
  Shape window;
  Shape dilation = {};
  Shape stride = {};
  std::vector<bool> causal = {};
};
WindowRule neighborhood_windows(const Neighborhood& n);

// Blocks of `block` queries per axis that see themselves and `halo` keys on every side (Vaswani et
// al. 2021, "HaloNet"); keys outside the map are not seen. `padded`: the map of keys already has a
// border of `halo` tokens, all of which count. `every`: of the queries only each every-th per axis
// is there, so that the grid of queries is smaller. Blocks divide the shape.
struct HaloBlocks {
  Shape shape;
  Shape block;
  Shape halo;
  bool padded = false;
  int64_t every = 1;
};
WindowRule halo_windows(const HaloBlocks& h);

// Windows that partition the grid, from token `shift` of every axis on; those at the borders are
// cut off, which is what a cyclic shift with region ids computes (Liu et al. 2021, "Swin").
WindowRule shifted_windows(const Shape& shape, const Shape& window, const Shape& shift = {0});

}  // namespace tessera
