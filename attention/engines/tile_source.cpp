#include "tessera/attention/engines/tile_source.h"

namespace tessera {

TileSource tiles_of(const BlockMask& mask) {
  TileSource s;
  s.kind = TileKind::blocks;
  s.key_blocks = mask.keys_of.rows();
  s.query_blocks = mask.queries_of.rows();
  s.block_q = static_cast<int>(mask.grid.block_q);
  s.block_k = static_cast<int>(mask.grid.block_k);
  return s;
}

TileSource tiles_of(const WindowRule& windows) {
  TileSource s;
  s.kind = TileKind::boxes;
  s.windows = windows;
  for (const AxisWindows& a : windows.axis) {
    check(a.queries < 1 << 20 && a.keys < 1 << 20, "attention: an axis of {} tokens is too long",
          std::max(a.queries, a.keys));
  }
  // Tiles are computed whole, so they should be full.
  s.query_tiles = cut_grid(windows, false, kTileSide, kTileSide, 0);
  s.key_tiles = cut_grid(windows, true, kTileSide, kTileSide, 0);
  check(std::max(s.query_tiles.count(windows), s.key_tiles.count(windows)) < int64_t{1} << 30,
        "attention: a grid of {} tokens is too large", windows.queries());
  return s;
}

}  // namespace tessera
