#include "tessera/autograd/ops/axis_pattern.h"

#include <algorithm>
#include <cctype>

namespace tessera::detail {
namespace {

bool is_space(char c) {
  return std::isspace(static_cast<unsigned char>(c)) != 0;
}
bool is_letter(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0;
}
bool in_name(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

// Takes the next token off `rest`: "...", a name or size, or a single other character.
std::string_view next_token(std::string_view& rest, bool letters) {
  size_t length = 1;
  if (rest.starts_with("...")) {
    length = 3;
  } else if (!letters) {
    while (in_name(rest[0]) && length < rest.size() && in_name(rest[length])) ++length;
  }
  const std::string_view token = rest.substr(0, length);
  rest = trimmed(rest.substr(length));
  return token;
}

}  // namespace

bool contains(const Axes& axes, std::string_view axis) {
  return std::find(axes.begin(), axes.end(), axis) != axes.end();
}

bool is_ellipsis(std::string_view axis) {
  return axis.starts_with("...");
}

std::pair<std::string_view, std::string_view> AxisPattern::sides() const {
  const size_t arrow = text.find("->");
  if (arrow == std::string_view::npos) return {trimmed(text), {}};
  const std::string_view right = text.substr(arrow + 2);
  check(right.find("->") == std::string_view::npos, "more than one arrow");
  return {trimmed(text.substr(0, arrow)), trimmed(right)};
}

std::vector<std::string_view> AxisPattern::terms(std::string_view side) const {
  std::vector<std::string_view> list;
  for (;;) {
    const size_t comma = side.find(',');
    list.push_back(trimmed(side.substr(0, comma)));
    if (comma == std::string_view::npos) return list;
    side.remove_prefix(comma + 1);
  }
}

Axes AxisPattern::names(std::string_view term, bool letters) const {
  Axes axes;
  std::string_view rest = trimmed(term);
  while (!rest.empty()) {
    const std::string_view token = next_token(rest, letters);
    check(token == "..." || is_letter(token[0]),
          "\"{}\" in \"{}\" is not the name of an axis (letters, or words separated by spaces)",
          token, term);
    check(token != "..." || !contains(axes, "..."), "two ellipses in \"{}\"", term);
    axes.emplace_back(token);
  }
  return axes;
}

std::vector<Axes> AxisPattern::groups(std::string_view side) const {
  std::vector<Axes> list;
  Axes seen;
  bool inside = false;
  std::string_view rest = trimmed(side);
  while (!rest.empty()) {
    const std::string_view token = next_token(rest, false);
    if (token == "(" || token == ")") {
      check(inside == (token == ")"), "parentheses of \"{}\" do not match", side);
      if (!inside) list.emplace_back();
      if (inside && list.back() == Axes{"..."}) list.back().emplace_back("1");
      inside = !inside;
      continue;
    }
    const bool size =
        std::all_of(token.begin(), token.end(), [](char c) { return c >= '0' && c <= '9'; });
    check(token == "..." || is_letter(token[0]) || (size && token[0] != '0' && token.size() < 10),
          "\"{}\" in \"{}\" is neither an axis nor a size", token, side);
    check(size || !contains(seen, token), "\"{}\" stands twice in \"{}\"", token, side);
    seen.emplace_back(token);
    if (!inside) list.emplace_back();
    list.back().emplace_back(token);
  }
  check(!inside, "parentheses of \"{}\" do not match", side);
  return list;
}

Axes AxisPattern::expanded(const Axes& axes, int64_t covered) const {
  Axes result;
  for (const std::string& axis : axes) {
    if (axis != "...") result.push_back(axis);
    for (int64_t i = covered; axis == "..." && i > 0; --i) {
      result.push_back(fmt::format("...{}", i));
    }
  }
  return result;
}

int64_t AxisPattern::covered(const Axes& axes, const Shape& shape, std::string_view what) const {
  const bool open = contains(axes, "...");
  const int64_t named = static_cast<int64_t>(axes.size()) - (open ? 1 : 0);
  check(open ? named <= shape.rank() : named == shape.rank(),
        "\"{}\" names {} dimensions, the tensor has shape {}", what, named, shape);
  return open ? shape.rank() - named : 0;
}

}  // namespace tessera::detail
