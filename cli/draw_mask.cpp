// tessera draw-mask PATTERN|all --out FILE.png [--n N] [--block N] [--heads N]
#include <fmt/format.h>

#include <functional>

#include "tessera/analysis/draw_mask.h"
#include "tessera/attention/patterns.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/cli/command.h"
#include "tessera/config/nearest.h"
#include "tessera/core/create.h"
#include "tessera/core/random.h"
#include "tessera/data/image.h"

namespace tessera::cli {
namespace {

struct Options {
  std::string pattern;
  std::string out;
  int64_t n = 2048;
  int64_t block = 64;
  int64_t heads = 4;
};

// Each pattern as it looks with settings in proportion to the grid.
struct Pattern {
  const char* name;
  BlockMask (*make)(BlockGrid grid, int64_t heads);
  bool by_head = false;  // drawn with all its heads among others too
};

Tensor random_keys(const BlockGrid& g, int64_t heads, int64_t count) {
  return randint(0, std::max<int64_t>(1, g.keys), {1, heads, count});
}

BlockMask causal(BlockGrid g, int64_t) {
  return all_blocks(g);
}
BlockMask window(BlockGrid g, int64_t) {
  g.left = g.keys / 6;
  return all_blocks(g);
}
BlockMask both_sides(BlockGrid g, int64_t) {
  g.left = g.right = g.keys / 10;
  return all_blocks(g);
}
BlockMask sinks(BlockGrid g, int64_t) {
  return sink_blocks(g, 2 * g.block_k, g.keys / 6);
}
BlockMask strided(BlockGrid g, int64_t heads) {
  return strided_blocks(
      g, {.heads = heads, .key_heads = heads, .local = 3, .stride = std::max<int64_t>(4, heads)});
}
BlockMask strided_both(BlockGrid g, int64_t) {
  g.right = -1;
  return strided_blocks(g, {.local = 2, .stride = 4});
}
BlockMask vertical_slash(BlockGrid g, int64_t heads) {
  const Tensor near = zeros({1, heads, 1}, {DType::i64, {}});  // every query's own key
  return vertical_slash_blocks(g, random_keys(g, heads, 4),
                               concat({near, random_keys(g, heads, 3)}, 2));
}
BlockMask top(BlockGrid g, int64_t heads) {
  return top_blocks(g, randn({1, heads, g.query_blocks(), g.key_blocks()}),
                    std::max<int64_t>(1, g.key_blocks() / 6));
}
BlockMask threshold(BlockGrid g, int64_t heads) {
  return threshold_blocks(g, randn({1, heads, g.query_blocks(), g.key_blocks()}), 1.2);
}
BlockMask listed(BlockGrid g, int64_t heads) {
  g.right = -1;
  return listed_blocks(
      g, randint(0, std::max<int64_t>(1, g.key_blocks()), {1, heads, g.query_blocks(), 5}));
}
BlockMask joined(BlockGrid g, int64_t heads) {
  return union_of({sinks(g, heads), strided(g, heads)});
}
BlockMask mixture(BlockGrid g, int64_t heads) {
  std::vector<int64_t> choice;
  for (int64_t h = 0; h < heads; ++h) choice.push_back(h % 4);
  return mixture_of({causal(g, heads), sinks(g, heads), strided(g, heads), top(g, heads)}, choice);
}

constexpr Pattern kPatterns[] = {{"causal", causal},
                                 {"window", window},
                                 {"two-sided-window", both_sides},
                                 {"sinks", sinks},
                                 {"strided", strided, true},
                                 {"two-sided-strided", strided_both},
                                 {"vertical-slash", vertical_slash},
                                 {"top", top},
                                 {"threshold", threshold},
                                 {"listed", listed},
                                 {"union", joined},
                                 {"mixture", mixture, true}};

std::vector<BlockMask> masks_of(const Options& o, const BlockGrid& grid) {
  std::vector<BlockMask> masks;
  std::vector<std::string> names;
  for (const Pattern& p : kPatterns) {
    names.push_back(p.name);
    if (o.pattern == p.name) masks.push_back(p.make(grid, o.heads));
    if (o.pattern == "all") masks.push_back(p.make(grid, p.by_head ? o.heads : 1));
  }
  check(!masks.empty(), "draw-mask: unknown pattern \"{}\"{} (patterns: all, {})", o.pattern,
        did_you_mean(o.pattern, names), fmt::join(names, ", "));
  return masks;
}

int run(const Options& o) {
  const RandomScope scope(1);
  const BlockGrid grid{
      .queries = o.n, .keys = o.n, .block_q = o.block, .block_k = o.block, .right = 0};
  const std::vector<BlockMask> masks = masks_of(o, grid);
  const Tensor image = draw_masks(masks, o.pattern == "all" ? 6 : 8);
  save_png(o.out, image);
  int64_t entries = 0, heads = 0;
  for (const BlockMask& m : masks) {
    entries += count_entries(m);
    heads += m.map.size(1);
  }
  const double share = static_cast<double>(entries) / static_cast<double>(heads * o.n * o.n);
  fmt::print("{}: {} panels, {} × {} pixels, {:.1f} % of the entries\n", o.out, heads,
             image.size(2), image.size(1), 100 * share);
  return 0;
}

void add(Command app) {
  auto o = std::make_shared<Options>();
  Command command = app.add_subcommand("draw-mask", "draw a pattern of block-sparse attention");
  command.add_option("pattern", o->pattern, "a pattern, or all; an unknown name lists them")
      .required();
  command.add_option("--out", o->out, "the PNG file to write").required();
  command.add_option("--n", o->n, "tokens (default: 2048)").range(1, 1 << 20);
  command.add_option("--block", o->block, "tokens of a block (default: 64)").range(1, 1 << 20);
  command.add_option("--heads", o->heads, "heads of patterns that differ by head (default: 4)")
      .range(1, 64);
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"draw-mask", add};

}  // namespace
}  // namespace tessera::cli
