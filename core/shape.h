// Shape: a list of at most 12 sizes held inline, also used for strides and dimension lists.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include "tessera/core/error.h"

namespace tessera {

constexpr int64_t kMaxRank = 12;

class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes) : Shape(std::span(sizes.begin(), sizes.size())) {}
  explicit Shape(std::span<const int64_t> sizes) {
    for (int64_t size : sizes) push_back(size);
  }
  static Shape filled(int64_t rank, int64_t value) {
    Shape shape;
    for (int64_t i = 0; i < rank; ++i) shape.push_back(value);
    return shape;
  }

  int64_t rank() const { return rank_; }
  bool empty() const { return rank_ == 0; }
  int64_t numel() const {  // product of the sizes; 1 for a scalar
    int64_t n = 1;
    for (int64_t size : *this) n *= size;
    return n;
  }
  int64_t& operator[](int64_t i) { return sizes_[static_cast<size_t>(i)]; }
  int64_t operator[](int64_t i) const { return sizes_[static_cast<size_t>(i)]; }
  int64_t& back() { return sizes_[static_cast<size_t>(rank_ - 1)]; }
  int64_t back() const { return sizes_[static_cast<size_t>(rank_ - 1)]; }
  int64_t* begin() { return sizes_.data(); }
  int64_t* end() { return sizes_.data() + rank_; }
  const int64_t* begin() const { return sizes_.data(); }
  const int64_t* end() const { return sizes_.data() + rank_; }
  operator std::span<const int64_t>() const { return {begin(), end()}; }

  void push_back(int64_t size) {
    check(rank_ < kMaxRank, "shape: more than {} dimensions", kMaxRank);
    sizes_[static_cast<size_t>(rank_++)] = size;
  }
  void pop_back() { --rank_; }
  void insert(int64_t at, int64_t size) {
    push_back(size);
    std::rotate(begin() + at, end() - 1, end());
  }
  void erase(int64_t at) {
    std::copy(begin() + at + 1, end(), begin() + at);
    --rank_;
  }
  bool operator==(const Shape& other) const {
    return rank_ == other.rank_ && std::equal(begin(), end(), other.begin());
  }

 private:
  std::array<int64_t, kMaxRank> sizes_{};
  int64_t rank_ = 0;
};

using Strides = Shape;

std::string to_string(const Shape& shape);  // "(2, 3)", "(5)", "()"

// Row-major strides of a dense tensor.
Strides contiguous_strides(const Shape& shape);

// NumPy's broadcasting rule; `op` begins the error when the shapes do not fit.
Shape broadcast_shapes(const Shape& a, const Shape& b, std::string_view op);

// Maps a possibly negative dimension into [0, rank); `op` begins the error.
int64_t normalize_dim(int64_t dim, int64_t rank, std::string_view op);

// Maps a list of dimensions (empty: all of them), sorted; a repeated one is an error.
Shape normalize_dims(const Shape& dims, int64_t rank, std::string_view op);

}  // namespace tessera

template <>
struct fmt::formatter<tessera::Shape> : fmt::formatter<std::string_view> {
  auto format(const tessera::Shape& shape, fmt::format_context& context) const {
    return fmt::formatter<std::string_view>::format(tessera::to_string(shape), context);
  }
};
