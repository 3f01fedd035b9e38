#include <cmath>
#include <cstring>

#include "tessera/core/error.h"
#include "tessera/core/file.h"
#include "tessera/data/bpe.h"

namespace tessera {
namespace {

// Numbers and bytes one after the other; cut files are named with the place.
class Reader {
 public:
  Reader(std::string_view bytes, std::string name) : bytes_(bytes), name_(std::move(name)) {}
  bool done() const { return at_ == bytes_.size(); }
  size_t at() const { return at_; }
  std::string_view take(size_t count) {
    check(count <= bytes_.size() - at_, "{}: byte {}: cut short, wants {} bytes more", name_, at_,
          count - (bytes_.size() - at_));
    at_ += count;
    return bytes_.substr(at_ - count, count);
  }
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

 private:
  std::string_view bytes_;
  std::string name_;
  size_t at_ = 0;
};

// The file has spaces where SentencePiece has marks.
std::string with_marks(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == ' ') {
      out += "\xE2\x96\x81";
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

BpeModel read_llama2c_vocabulary(const std::filesystem::path& path) {
  const std::string bytes = read_file(path.string());
  Reader reader(bytes, path.string());
  const auto longest = reader.number<int32_t>();
  check(longest > 0 && longest <= 1 << 16,
        "{}: byte 0: longest token of {} bytes; not a tokenizer "
        "of llama2.c",
        path.string(), longest);
  BpeModel model;
  while (!reader.done()) {
    const size_t at = reader.at();
    const auto score = reader.number<float>();
    const auto length = reader.number<int32_t>();
    check(std::isfinite(score) && length >= 0 && length <= longest,
          "{}: byte {}: token {} of {} bytes with score {}; not a tokenizer of llama2.c",
          path.string(), at, model.tokens.size(), length, score);
    model.scores.push_back(score);
    model.tokens.push_back(with_marks(reader.take(static_cast<size_t>(length))));
  }
  constexpr int32_t kFirstByte = 3, kBytes = 256;
  check(model.tokens.size() >= kFirstByte + kBytes,
        "{}: {} tokens; wants 3 special ones and 256 bytes at least", path.string(),
        model.tokens.size());
  for (int32_t id = 0; id < kFirstByte; ++id) {
    static constexpr const char* kSpecials[] = {"<unk>", "<s>", "</s>"};
    model.tokens[static_cast<size_t>(id)] = kSpecials[id];
    model.specials[kSpecials[id]] = id;
  }
  model.begin = model.end = 1;
  model.pieces = PieceRule::whole;
  model.characters = model.space_prefix = true;
  return model;
}

}  // namespace tessera
