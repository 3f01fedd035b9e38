#include "tessera/models/exchange/tensor_map.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

constexpr std::string_view kNumber = "{}";
constexpr size_t kShownProblems = 5;

// The number that "{}" of the pattern stands for in `name` ("" for a pattern without); none when
// it does not fit.
std::optional<std::string> match(std::string_view pattern, std::string_view name) {
  const size_t at = pattern.find(kNumber);
  if (at == std::string_view::npos) return pattern == name ? std::optional("") : std::nullopt;
  const std::string_view head = pattern.substr(0, at), tail = pattern.substr(at + kNumber.size());
  if (name.size() <= head.size() + tail.size() || !name.starts_with(head) ||
      !name.ends_with(tail)) {
    return std::nullopt;
  }
  const std::string_view number = name.substr(at, name.size() - head.size() - tail.size());
  const bool digits =
      std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; });
  return digits ? std::optional(std::string(number)) : std::nullopt;
}

std::string fill(std::string_view pattern, const std::string& number) {
  std::string name(pattern);
  const size_t at = name.find(kNumber);
  return at == std::string::npos ? name : name.replace(at, kNumber.size(), number);
}

// Their names of one of our tensors.
struct Row {
  std::vector<std::string> theirs;
  bool transposed = false;
};

Row find_row(const TensorMap& map, const std::string& name) {
  for (const TensorRule& rule : map.rules) {
    const auto number = match(rule.ours, name);
    if (!number) continue;
    Row row{{}, rule.transposed};
    for (const std::string& theirs : rule.theirs) row.theirs.push_back(fill(theirs, *number));
    return row;
  }
  fail("checkpoint: \"{}\" has no place among the tensors of this family", name);
}

bool is_ignored(const TensorMap& map, std::string_view name) {
  return std::any_of(map.ignored.begin(), map.ignored.end(), [&](std::string_view pattern) {
    return match(pattern, name) ||
           (pattern.starts_with(map.prefix) && match(pattern.substr(map.prefix.size()), name));
  });
}

// The shapes that make one of `shape` (in our layout), in theirs.
std::vector<Shape> part_shapes(const Row& row, const JoinedRows& rows, const Shape& shape) {
  if (row.theirs.size() == 1) {
    return {row.transposed ? Shape{shape[1], shape[0]} : shape};
  }
  std::vector<Shape> parts;
  for (const int64_t size : rows) {
    parts.push_back(shape);
    parts.back()[0] = size;
  }
  return parts;
}

Tensor join(const TensorList& parts, const Shape& shape) {
  const Tensor whole = empty(shape);
  int64_t at = 0;
  for (const Tensor& part : parts) {
    kernels::copy(views::slice(whole, 0, at, at + part.size(0)), part);
    at += part.size(0);
  }
  return whole;
}

// Their tensors by name, of which some are asked for; says what is wrong with them.
class Given {
 public:
  Given(const TensorMap& map, const NamedTensors& theirs)
      : map_(map), tensors_(theirs.begin(), theirs.end()) {}

  // An undefined tensor after a complaint.
  Tensor take(const std::string& name, const Shape& shape) {
    auto found = tensors_.find(name);
    if (found == tensors_.end() && name.starts_with(map_.prefix)) {
      found = tensors_.find(name.substr(map_.prefix.size()));
    }
    if (found == tensors_.end()) {
      complain(fmt::format("tensor \"{}\" of shape {} is missing", name, shape));
      return {};
    }
    const Tensor tensor = found->second;
    const std::string own_name = found->first;
    tensors_.erase(found);
    if (tensor.shape() != shape) {
      complain(fmt::format("tensor \"{}\" has shape {}, the model wants {}", own_name,
                           tensor.shape(), shape));
      return {};
    }
    if (!is_floating(tensor.dtype())) {
      complain(fmt::format("tensor \"{}\" holds {}, not floating-point numbers", own_name,
                           tensor.dtype()));
      return {};
    }
    return tensor;
  }

  // Throws when anything was wrong or is left over.
  void finish() {
    for (const auto& [name, tensor] : tensors_) {
      if (is_ignored(map_, name)) continue;
      complain(fmt::format("tensor \"{}\" of shape {} is not in the model", name, tensor.shape()));
    }
    const size_t shown = std::min(problems_.size(), kShownProblems);
    check(problems_.empty(), "{}{}",
          fmt::join(problems_.begin(), problems_.begin() + static_cast<ptrdiff_t>(shown), "; "),
          problems_.size() > shown ? fmt::format("; and {} more", problems_.size() - shown) : "");
  }

 private:
  void complain(std::string problem) { problems_.push_back(std::move(problem)); }

  const TensorMap& map_;
  std::map<std::string, Tensor> tensors_;
  std::vector<std::string> problems_;
};

}  // namespace

NamedTensors to_ours(const TensorMap& map, const JoinedRows& rows, const NamedTensors& model,
                     const NamedTensors& theirs) {
  Given given(map, theirs);
  NamedTensors ours;
  for (const auto& [name, wanted] : model) {
    const Row row = find_row(map, name);
    const std::vector<Shape> shapes = part_shapes(row, rows, wanted.shape());
    TensorList parts;
    bool whole = true;
    for (size_t i = 0; i < shapes.size(); ++i) {
      Tensor part = given.take(row.theirs[i], shapes[i]);
      whole = whole && part.defined();
      if (part.defined() && row.transposed) part = views::transpose(part, 0, 1);
      parts.push_back(part);
    }
    if (whole) ours.emplace_back(name, join(parts, wanted.shape()));
  }
  given.finish();
  return ours;
}

NamedTensors to_theirs(const TensorMap& map, const JoinedRows& rows, const NamedTensors& ours) {
  NamedTensors theirs;
  for (const auto& [name, tensor] : ours) {
    const Row row = find_row(map, name);
    if (row.theirs.size() == 1) {
      theirs.emplace_back(row.theirs[0],
                          kernels::clone(row.transposed ? views::transpose(tensor, 0, 1) : tensor));
      continue;
    }
    int64_t at = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      theirs.emplace_back(row.theirs[i], kernels::clone(views::slice(tensor, 0, at, at + rows[i])));
      at += rows[i];
    }
  }
  return theirs;
}

}  // namespace tessera
