#include "tessera/analysis/draw_mask.h"

#include <array>

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

constexpr int64_t kNarrowest = 160;  // pixels of a panel
constexpr int64_t kGap = 8;          // between panels, and around them

using Colour = std::array<float, 3>;
constexpr Colour kPaper{1, 1, 1};
constexpr Colour kColours[] = {{0.92F, 0.93F, 0.94F}, {0.95F, 0.58F, 0.16F}, {0.13F, 0.38F, 0.66F}};

// The kinds of one head's blocks.
struct Panel {
  std::vector<uint8_t> kinds;
  int64_t rows, columns, scale;

  Panel(const Tensor& map, int64_t head)
      : kinds(views::select(views::select(map, 0, 0), 0, head).to_vector<uint8_t>()),
        rows(map.size(2)),
        columns(map.size(3)),
        scale(std::max<int64_t>(1, kNarrowest / std::max<int64_t>(1, columns))) {}

  int64_t height() const { return rows * scale; }
  int64_t width() const { return columns * scale; }
};

class Canvas {
 public:
  Canvas(int64_t height, int64_t width) : height_(height), width_(width) {
    image_ = empty({3, height, width});
    rectangle(0, 0, height, width, kPaper);
  }
  void rectangle(int64_t top, int64_t left, int64_t height, int64_t width, const Colour& colour) {
    auto* pixels = image_.data<float>();
    for (int64_t c = 0; c < 3; ++c) {
      for (int64_t y = top; y < top + height; ++y) {
        float* row = pixels + (c * height_ + y) * width_;
        std::fill(row + left, row + left + width, colour[static_cast<size_t>(c)]);
      }
    }
  }
  void draw(const Panel& panel, int64_t top, int64_t left) {
    const int64_t line = panel.scale >= 6 ? 1 : 0;  // between blocks that are large enough
    for (int64_t i = 0; i < panel.rows; ++i) {
      for (int64_t j = 0; j < panel.columns; ++j) {
        rectangle(top + i * panel.scale, left + j * panel.scale, panel.scale - line,
                  panel.scale - line,
                  kColours[panel.kinds[static_cast<size_t>(i * panel.columns + j)]]);
      }
    }
  }
  const Tensor& image() const { return image_; }

 private:
  int64_t height_, width_;
  Tensor image_;
};

}  // namespace

Tensor draw_masks(const std::vector<BlockMask>& masks, int64_t columns) {
  check(columns >= 1, "draw_masks: {} panels in a row; there must be one at least", columns);
  std::vector<Panel> panels;
  for (const BlockMask& mask : masks) {
    check(mask.map.defined() && mask.map.size(0) > 0, "draw_masks: a mask is empty");
    const Tensor map = kernels::to_device(mask.map, {});
    for (int64_t h = 0; h < map.size(1); ++h) panels.emplace_back(map, h);
  }
  int64_t cell_height = 1, cell_width = 1;
  for (const Panel& p : panels) {
    cell_height = std::max(cell_height, p.height());
    cell_width = std::max(cell_width, p.width());
  }
  const auto count = static_cast<int64_t>(panels.size());
  const int64_t across = std::min(columns, std::max<int64_t>(count, 1));
  const int64_t down = (count + across - 1) / across;
  Canvas canvas(kGap + down * (cell_height + kGap), kGap + across * (cell_width + kGap));
  for (int64_t p = 0; p < count; ++p) {
    canvas.draw(panels[static_cast<size_t>(p)], kGap + p / across * (cell_height + kGap),
                kGap + p % across * (cell_width + kGap));
  }
  return canvas.image();
}

Tensor draw_mask(const BlockMask& mask, int64_t columns) {
  return draw_masks({mask}, columns);
}

}  // namespace tessera
