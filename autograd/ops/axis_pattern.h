// Patterns of named axes, as einsum and rearrange read them: "b n (h d) -> b h n d".
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tessera/core/shape.h"

namespace tessera::detail {

using Axes = std::vector<std::string>;

// A pattern and who reads it: the beginning of every error about it.
struct AxisPattern {
  std::string_view op;
  std::string_view text;

  template <class... Args>
  void check(bool condition, fmt::format_string<Args...> format, Args&&... args) const {
    if (!condition) {
      raise(fmt::format("{}: \"{}\": {}", op, text,
                        fmt::format(format, std::forward<Args>(args)...)));
    }
  }

  bool has_arrow() const { return text.find("->") != std::string_view::npos; }
  // What stands before and after "->"; the second is empty without an arrow.
  std::pair<std::string_view, std::string_view> sides() const;
  // The parts between commas.
  std::vector<std::string_view> terms(std::string_view side) const;

  // Axes of one term: names separated by spaces or, with `letters`, one per letter; "..." is one.
  Axes names(std::string_view term, bool letters) const;
  // The same with parentheses: "b (h d)" is {{"b"}, {"h", "d"}}; "1" and other sizes are axes too.
  // "(...)" comes out as {"...", "1"}, so that it differs from "...".
  std::vector<Axes> groups(std::string_view side) const;

  // `axes` with "..." replaced by "...n" to "...1", n = covered: names that count from the right,
  // so that ellipses of different lengths broadcast.
  Axes expanded(const Axes& axes, int64_t covered) const;
  // How many dimensions the ellipsis of a term covers; checks that the term fits the rank.
  int64_t covered(const Axes& axes, const Shape& shape, std::string_view what) const;
};

bool contains(const Axes& axes, std::string_view axis);
bool is_ellipsis(std::string_view axis);

}  // namespace tessera::detail
