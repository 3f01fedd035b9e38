#include "tessera/core/print.h"

#include <cmath>
#include <ostream>

namespace tessera {
namespace {

constexpr int64_t kShowAll = 1000;
constexpr int64_t kEdgeItems = 3;
constexpr size_t kLineWidth = 80;
constexpr double kWidestRange = 1e4;  // largest to smallest magnitude in fixed notation

// The indices that are shown along one dimension: all, or `edge` at each end.
struct Window {
  int64_t edge;
  bool cuts(int64_t size) const { return size > 2 * edge; }
  int64_t count(int64_t size) const { return cuts(size) ? 2 * edge : size; }
  int64_t index(int64_t i, int64_t size) const {
    return cuts(size) && i >= edge ? size - 2 * edge + i : i;
  }
};

int64_t shown_elements(const Shape& shape, Window window) {
  int64_t count = 1;
  for (int64_t size : shape) count *= window.count(size);
  return count;
}

Window window_for(const Shape& shape) {
  int64_t longest = 0;
  for (int64_t size : shape) longest = std::max(longest, size);
  if (shape.numel() <= kShowAll) return {longest};
  Window window{kEdgeItems};
  while (window.edge > 1 && shown_elements(shape, window) > kShowAll) --window.edge;
  return window;
}

template <class Fn>
void for_each_shown(const Tensor& x, Window window, int64_t dim, int64_t offset, const Fn& fn) {
  if (dim == x.rank()) {
    fn(offset);
    return;
  }
  const int64_t size = x.shape()[dim];
  for (int64_t i = 0; i < window.count(size); ++i) {
    for_each_shown(x, window, dim + 1, offset + window.index(i, size) * x.strides()[dim], fn);
  }
}

// Digits after the point in the shortest form of four significant ones.
int decimals_of(double value) {
  const std::string text = fmt::format("{:.4g}", value);
  const size_t point = text.find('.');
  return point == std::string::npos ? 0 : static_cast<int>(text.size() - point) - 1;
}

std::vector<std::string> format_floats(const std::vector<double>& values) {
  double largest = 0;
  double smallest = std::numeric_limits<double>::infinity();
  for (double v : values) {
    if (!std::isfinite(v) || v == 0) continue;
    largest = std::max(largest, std::abs(v));
    smallest = std::min(smallest, std::abs(v));
  }
  const bool scientific =
      largest > 0 && (largest >= 1e8 || smallest < 1e-4 || largest > smallest * kWidestRange);
  int decimals = 0;
  if (!scientific) {
    for (double v : values) {
      if (std::isfinite(v) && std::abs(v) < kWidestRange) {
        decimals = std::max(decimals, decimals_of(v));
      }
    }
  }
  std::vector<std::string> texts;
  for (double v : values) {
    if (!std::isfinite(v))
      texts.push_back(fmt::format("{}", v));
    else if (scientific)
      texts.push_back(fmt::format("{:.3e}", v));
    else
      texts.push_back(fmt::format("{:#.{}f}", v, decimals));
  }
  return texts;
}

std::vector<std::string> shown_texts(const Tensor& x, Window window) {
  return visit_dtype(x.dtype(), [&]<class T>() {
    std::vector<double> floats;
    std::vector<std::string> texts;
    const T* data = x.data<T>();
    for_each_shown(x, window, 0, 0, [&](int64_t offset) {
      if constexpr (is_floating(dtype_of<T>()))
        floats.push_back(convert<double>(data[offset]));
      else if constexpr (std::is_same_v<T, bool>)
        texts.push_back(data[offset] ? "true" : "false");
      else
        texts.push_back(std::to_string(data[offset]));
    });
    return is_floating(dtype_of<T>()) ? format_floats(floats) : texts;
  });
}

// Lays the texts out in brackets.
class Layout {
 public:
  Layout(const Shape& shape, Window window, const std::vector<std::string>& texts)
      : shape_(shape), window_(window), next_(texts.begin()) {
    for (const std::string& text : texts) width_ = std::max(width_, text.size());
  }

  std::string run() {
    block(0);
    return std::move(text_);
  }

 private:
  void element() {
    text_ += fmt::format("{:>{}}", *next_, width_);
    ++next_;
  }

  void block(int64_t dim) {
    if (dim == shape_.rank()) return element();
    const int64_t size = shape_[dim];
    text_ += '[';
    for (int64_t i = 0; i < window_.count(size); ++i) {
      if (i > 0) separate(dim);
      if (window_.cuts(size) && i == window_.edge) {
        text_ += "…";
        separate(dim);
      }
      block(dim + 1);
    }
    text_ += ']';
  }

  void separate(int64_t dim) {
    text_ += ',';
    const auto indent = static_cast<size_t>(dim) + 1;
    const size_t column = text_.size() - line_start_;
    if (dim < shape_.rank() - 1)
      new_line(lines_after(dim), indent);
    else if (column + width_ + 2 > kLineWidth)
      new_line(1, indent);
    else
      text_ += ' ';
  }

  // Blocks of more dimensions stand further apart.
  size_t lines_after(int64_t dim) const { return static_cast<size_t>(shape_.rank() - 1 - dim); }

  void new_line(size_t count, size_t indent) {
    text_.append(count, '\n');
    line_start_ = text_.size();
    text_.append(indent, ' ');
  }

  const Shape& shape_;
  Window window_;
  std::vector<std::string>::const_iterator next_;
  size_t width_ = 0;
  size_t line_start_ = 0;
  std::string text_;
};

}  // namespace

std::string to_string(const Tensor& x) {
  if (!x.defined()) return "undefined";
  const Window window = window_for(x.shape());
  const bool empty = x.numel() == 0;
  std::string text = empty ? "[]" : Layout(x.shape(), window, shown_texts(x, window)).run();
  const bool cut = shown_elements(x.shape(), window) < x.numel();
  if (empty || cut || x.dtype() != DType::f32) {
    text += fmt::format(" {} {}", x.dtype(), x.shape());
  }
  return text;
}

std::ostream& operator<<(std::ostream& stream, const Tensor& x) {
  return stream << to_string(x);
}

}  // namespace tessera
