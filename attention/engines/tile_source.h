// How CUDA cuts attention into tiles: which rows a tile has, and which rows of the other side it
// may meet, as kernels ask it. Both directions are asked: tiles of queries that meet keys, and
// tiles of keys that meet queries. A visible entry must be met in both.
#pragma once

#include "tessera/attention/engines/block_mask.h"
#include "tessera/attention/engines/windows.h"

namespace tessera {

constexpr int kTileSide = 64;  // rows of a tile, at most

enum class Side : uint8_t { queries, keys };

enum class TileKind : uint8_t {
  ranges,  // rows in order, with the range of the other side that the rule gives
  blocks,  // of a mask, with the rows of the blocks in its lists
  boxes,   // of a grid, with the smallest box of the other side
};

// Up to three coordinates below 2^20 in one word, so that all of them are compared at once.
class PackedPlace {
 public:
  PackedPlace() = default;
  TESSERA_HD PackedPlace(int x, int y, int z)
      : bits_(static_cast<uint64_t>(x) | static_cast<uint64_t>(y) << 21 |
              static_cast<uint64_t>(z) << 42) {}
  TESSERA_HD bool at_least(const PackedPlace& o) const {
    return (((bits_ | kGuards) - o.bits_) & kGuards) == kGuards;  // no field borrowed
  }

 private:
  static constexpr uint64_t kGuards = uint64_t{1} << 20 | uint64_t{1} << 41 | uint64_t{1} << 62;
  uint64_t bits_ = 0;
};

// A window on a grid, both ends included.
struct PackedWindow {
  PackedPlace first, last;
  TESSERA_HD bool contains(const PackedPlace& p) const {
    return p.at_least(first) && last.at_least(p);
  }
};

// The rows that a tile may meet: at(0) … at(count − 1), −1 for nobody.
struct Candidates {
  int count = 0;
  int first = 0;                  // ranges
  const int32_t* list = nullptr;  // blocks, of `block` rows below `limit`
  int block = 1, limit = 0;
  GridBox box;  // boxes

  TESSERA_HD static Candidates range(const IndexRange& r) {
    Candidates c;
    c.first = r.begin;
    c.count = r.is_empty() ? 0 : r.end - r.begin;
    return c;
  }
};

struct TileSource {
  TileKind kind = TileKind::ranges;
  BlockRows key_blocks, query_blocks;  // of a query block, of a key block
  int block_q = 1, block_k = 1;
  WindowRule windows;
  GridTiles query_tiles, key_tiles;

  // Tiles of one batch and head.
  TESSERA_HD int tiles(const EntryRule& rule, Side side) const {
    if (kind == TileKind::boxes) return static_cast<int>(grid(side).count(windows));
    const int n = rows(rule, side);
    if (kind == TileKind::ranges) return ceil_div(n, kTileSide);
    return ceil_div(n, block(side)) * tiles_per_block(side);
  }
  // Row r of a tile, −1 for nobody.
  TESSERA_HD int row(const EntryRule& rule, Side side, int tile, int r) const {
    if (kind == TileKind::boxes) return token(side, box(side, tile), r);
    int i = tile * kTileSide + r, end = rows(rule, side);
    if (kind == TileKind::blocks) {
      const int b = tile / tiles_per_block(side), first = b * block(side);
      i = first + tile % tiles_per_block(side) * kTileSide + r;
      if (first + block(side) < end) end = first + block(side);
    }
    return i < end ? i : -1;
  }
  // `seen`: what the rule lets the rows of a tile of queries see, of a range.
  TESSERA_HD Candidates candidates(const EntryRule& rule, Side side, int b, int h, int tile,
                                   const IndexRange& seen) const {
    if (kind == TileKind::boxes) return box_candidates(side, box(side, tile));
    if (kind == TileKind::blocks) return block_candidates(rule, side, b, h, tile);
    if (side == Side::queries) return Candidates::range(seen);
    const int begin = tile * kTileSide, end = begin + kTileSide;
    return Candidates::range(rule.queries_of(b, begin, end < rule.keys ? end : rule.keys));
  }
  // Candidate n of a tile of `side`.
  TESSERA_HD int candidate(Side side, const Candidates& c, int n) const {
    if (n >= c.count) return -1;
    if (kind == TileKind::ranges) return c.first + n;
    if (kind == TileKind::boxes) return token(other(side), c.box, n);
    const int i = c.list[n / c.block] * c.block + n % c.block;
    return i < c.limit ? i : -1;
  }

  // Of boxes: what a query sees, and where a key is. An empty window gives false.
  TESSERA_HD bool window_of(int query, PackedWindow& w) const {
    const GridBox b = windows.window_of(query);
    if (b.is_empty()) return false;
    const IndexRange *x = &b.range[0], *y = &b.range[1], *z = &b.range[2];
    w = {{x->begin, y->begin, z->begin}, {x->end - 1, y->end - 1, z->end - 1}};
    return true;
  }
  TESSERA_HD PackedPlace place_of(int key) const {
    int at[kAxes];
    for (int a = kAxes - 1; a >= 0; --a) {
      at[a] = key % windows.axis[a].keys / windows.axis[a].dilation;
      key /= windows.axis[a].keys;
    }
    return {at[0], at[1], at[2]};
  }

 private:
  static TESSERA_HD int ceil_div(int a, int b) { return (a + b - 1) / b; }
  static TESSERA_HD Side other(Side s) { return s == Side::queries ? Side::keys : Side::queries; }
  static TESSERA_HD int rows(const EntryRule& rule, Side side) {
    return side == Side::queries ? rule.queries : rule.keys;
  }
  TESSERA_HD int block(Side side) const { return side == Side::queries ? block_q : block_k; }
  TESSERA_HD int tiles_per_block(Side side) const { return ceil_div(block(side), kTileSide); }
  TESSERA_HD const GridTiles& grid(Side side) const {
    return side == Side::queries ? query_tiles : key_tiles;
  }
  TESSERA_HD GridBox box(Side side, int tile) const {
    return side == Side::queries ? query_tiles.queries(windows, tile)
                                 : key_tiles.keys(windows, tile);
  }
  TESSERA_HD int token(Side side, const GridBox& b, int n) const {
    if (n >= b.count()) return -1;
    int at[kAxes];
    b.locate(n, at);
    return side == Side::queries ? windows.query_token(b, at) : windows.key_token(b, at);
  }
  TESSERA_HD Candidates box_candidates(Side side, const GridBox& b) const {
    Candidates c;
    if (b.is_empty()) return c;
    c.box = side == Side::queries ? windows.keys_of(b) : windows.queries_of(b);
    c.count = c.box.count();
    return c;
  }
  TESSERA_HD Candidates block_candidates(const EntryRule& rule, Side side, int b, int h,
                                         int tile) const {
    const BlockRows& lists = side == Side::queries ? key_blocks : query_blocks;
    const BlockRow row = lists.row(b, h, tile / tiles_per_block(side));
    Candidates c;
    c.list = row.index;
    c.block = block(other(side));
    c.limit = rows(rule, other(side));
    c.count = row.count * c.block;
    return c;
  }
};

// The tiles of a mask, for a rule with the mask's window, and those of windows on a grid, for a
// rule that hides nothing. The mask must live as long as the source.
TileSource tiles_of(const BlockMask& mask);
TileSource tiles_of(const WindowRule& windows);

}  // namespace tessera
