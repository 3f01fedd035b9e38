#include "tessera/data/token_windows.h"

#include <algorithm>

#include "tessera/core/create.h"

namespace tessera {

TokenStream::TokenStream(int64_t vocabulary) : vocabulary_(vocabulary) {
  if (vocabulary > 65536) {
    ids_ = std::vector<int32_t>();
  } else if (vocabulary > 256) {
    ids_ = std::vector<uint16_t>();
  }
}

void TokenStream::append(std::span<const int64_t> ids) {
  for (int64_t id : ids) {
    check(id >= 0 && id < vocabulary_, "tokens: id {} is outside the vocabulary of {}", id,
          vocabulary_);
  }
  std::visit(
      [&]<class T>(std::vector<T>& stored) {
        const size_t old = stored.size();
        stored.resize(old + ids.size());
        std::transform(ids.begin(), ids.end(), stored.begin() + static_cast<int64_t>(old),
                       [](int64_t id) { return static_cast<T>(id); });
      },
      ids_);
}

int64_t TokenStream::size() const {
  return std::visit([](const auto& stored) { return static_cast<int64_t>(stored.size()); }, ids_);
}

void TokenStream::read(int64_t at, std::span<int64_t> out) const {
  std::visit(
      [&](const auto& stored) {
        std::copy_n(stored.begin() + at, static_cast<int64_t>(out.size()), out.begin());
      },
      ids_);
}

TokenStream TokenStream::slice(int64_t begin, int64_t end) const {
  TokenStream out(vocabulary_);
  std::visit(
      [&]<class T>(const std::vector<T>& stored) {
        out.ids_ = std::vector<T>(stored.begin() + begin, stored.begin() + end);
      },
      ids_);
  return out;
}

WindowDataset::WindowDataset(const std::string& name, Corpus corpus, int64_t context)
    : corpus_(std::move(corpus)), context_(context) {
  check(context > 0, "{}: context {} must be positive", name, context);
  for (Split split : {Split::train, Split::validation, Split::test}) {
    const int64_t tokens = stream(split).size();
    check(tokens > context,
          "{}: the {} split has {} tokens, a window of context {} needs {}; use a smaller context "
          "or more text",
          name, to_string(split), tokens, context, context + 1);
  }
}

const TokenStream& WindowDataset::stream(Split split) const {
  if (split == Split::train) return corpus_.train;
  return split == Split::validation ? corpus_.validation : corpus_.test;
}

DataInfo WindowDataset::info() const {
  DataInfo info;
  info.vocabulary = corpus_.tokenizer->vocabulary();
  info.context = context_;
  return info;
}

int64_t WindowDataset::size(Split split) const {
  const int64_t tokens = stream(split).size();
  return split == Split::train ? tokens - context_ : (tokens - 1) / context_;
}

Batch WindowDataset::get(Split split, std::span<const int64_t> indices, uint64_t) const {
  check_indices(indices, size(split), "text");
  const auto rows = static_cast<int64_t>(indices.size());
  const auto width = static_cast<size_t>(context_);
  const Tensor tokens = empty({rows, context_}, {DType::i64, {}});
  const Tensor targets = empty({rows, context_}, {DType::i64, {}});
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t stride = split == Split::train ? 1 : context_;
    const int64_t at = indices[static_cast<size_t>(row)] * stride;
    stream(split).read(at, {tokens.data<int64_t>() + row * context_, width});
    stream(split).read(at + 1, {targets.data<int64_t>() + row * context_, width});
  }
  return {{"tokens", tokens}, {"targets", targets}};
}

}  // namespace tessera
