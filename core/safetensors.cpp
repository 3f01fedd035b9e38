#include "tessera/core/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <tuple>

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"

static_assert(std::endian::native == std::endian::little, "the data is used as it is in the file");

namespace tessera {
namespace {

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kMaxHeader = 100'000'000;
constexpr int64_t kDataAlignment = 64;
constexpr std::string_view kMetadata = "__metadata__";

struct Format {
  std::string_view name;
  int64_t bits;
  std::optional<DType> dtype;  // none: known, but not an element type of tessera
};
constexpr std::array<Format, 20> kFormats = {{{"F64", 64, DType::f64}, {"F32", 32, DType::f32},
                                              {"F16", 16, DType::f16}, {"BF16", 16, DType::bf16},
                                              {"I64", 64, DType::i64}, {"I32", 32, DType::i32},
                                              {"U8", 8, DType::u8},    {"BOOL", 8, DType::boolean},
                                              {"I16", 16, {}},         {"I8", 8, {}},
                                              {"U16", 16, {}},         {"U32", 32, {}},
                                              {"U64", 64, {}},         {"F8_E4M3", 8, {}},
                                              {"F8_E5M2", 8, {}},      {"F8_E8M0", 8, {}},
                                              {"F6_E2M3", 6, {}},      {"F6_E3M2", 6, {}},
                                              {"F4", 4, {}},           {"C64", 64, {}}}};

const Format* find_format(std::string_view name) {
  const auto at = std::find_if(kFormats.begin(), kFormats.end(),
                               [&](const Format& format) { return format.name == name; });
  return at == kFormats.end() ? nullptr : &*at;
}

std::string_view format_name(DType dtype) {
  return std::find_if(kFormats.begin(), kFormats.end(),
                      [&](const Format& f) { return f.dtype == dtype; })
      ->name;
}

// Text of a foreign file on one line of an error.
std::string in_quotes(std::string_view text) {
  using Json = nlohmann::json;
  constexpr size_t kLongest = 80;
  std::string shown(text.substr(0, kLongest));
  if (text.size() > kLongest) shown += "…";
  return Json(shown).dump(-1, ' ', true, Json::error_handler_t::replace);
}

template <class... Args>
[[noreturn]] void fail_at(std::string_view file, int64_t offset, fmt::format_string<Args...> format,
                          Args&&... args) {
  fail("{}: byte {}: {}", file, offset, fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
[[noreturn]] void fail_tensor(std::string_view file, const SafetensorsInfo& info, int64_t offset,
                              fmt::format_string<Args...> format, Args&&... args) {
  fail_at(file, offset, "tensor {}: {}", in_quotes(info.name),
          fmt::format(format, std::forward<Args>(args)...));
}

// The part of JSON that a header is made of, with the byte offset of everything that is wrong.
class HeaderReader {
 public:
  HeaderReader(std::string_view text, std::string_view file) : text_(text), file_(file) {}

  int64_t offset() const { return kLengthBytes + static_cast<int64_t>(at_); }

  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    fail_at(file_, offset(), "{}{}", where_, fmt::format(format, std::forward<Args>(args)...));
  }
  void set_tensor(std::string_view name) { where_ = "tensor " + in_quotes(name) + ": "; }
  void clear_tensor() { where_.clear(); }

  // entry(key) for each member of an object; a key that comes twice is an error.
  template <class Fn>
  void object(std::string_view what, const Fn& entry) {
    expect('{', what);
    std::set<std::string> seen;
    for (bool more = !accept('}'); more; more = next_member('}')) {
      const std::string key = string("a name");
      if (!seen.insert(key).second) fail("{} comes twice", in_quotes(key));
      expect(':', "':'");
      entry(key);
    }
  }

  template <class Fn>
  void array(std::string_view what, const Fn& element) {
    expect('[', what);
    for (bool more = !accept(']'); more; more = next_member(']')) element();
  }

  std::string string(std::string_view what) {
    skip_space();
    if (peek() != '"') fail("wants {}, found {}", what, found());
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != '"') end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) fail("a string does not end");
    const auto token = text_.substr(at_, end + 1 - at_);
    const auto value = nlohmann::json::parse(token.begin(), token.end(), nullptr, false);
    if (!value.is_string()) fail("a string holds a control character, a bad escape or bad UTF-8");
    at_ = end + 1;
    return value.get<std::string>();
  }

  int64_t natural(std::string_view what) {
    skip_space();
    const size_t begin = at_;
    int64_t value = 0;
    for (; peek() >= '0' && peek() <= '9'; ++at_) {
      if (__builtin_mul_overflow(value, 10, &value) ||
          __builtin_add_overflow(value, peek() - '0', &value)) {
        fail("{} is too large", what);
      }
    }
    const bool leading_zero = at_ > begin + 1 && text_[begin] == '0';
    if (at_ == begin || leading_zero || peek() == '.' || peek() == 'e' || peek() == 'E') {
      at_ = begin;
      fail("wants {} (an integer, not negative), found {}", what, found());
    }
    return value;
  }

  void end() {
    skip_space();
    if (at_ != text_.size()) fail("the header goes on after its object with {}", found());
  }

 private:
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  std::string found() const {
    return at_ < text_.size() ? in_quotes(text_.substr(at_, 12)) : "the end of the header";
  }
  void skip_space() {
    while (peek() == ' ' || peek() == '\n' || peek() == '\r' || peek() == '\t') ++at_;
  }
  bool accept(char c) {
    skip_space();
    const bool there = at_ < text_.size() && text_[at_] == c;
    at_ += there ? 1 : 0;
    return there;
  }
  void expect(char c, std::string_view what) {
    if (!accept(c)) fail("wants {}, found {}", what, found());
  }
  bool next_member(char close) {
    if (accept(close)) return false;
    expect(',', close == '}' ? "',' or '}'" : "',' or ']'");
    return true;
  }

  std::string_view text_;
  std::string_view file_;
  std::string where_;
  size_t at_ = 0;
};

std::string_view header_text(std::span<const std::byte> bytes, std::string_view file) {
  const auto size = static_cast<int64_t>(bytes.size());
  if (size < kLengthBytes) {
    fail_at(file, 0, "{} bytes are too few for the header length; the file is cut short", size);
  }
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > static_cast<uint64_t>(kMaxHeader)) {
    fail_at(file, 0, "header length {} is over {}; not a safetensors file", length, kMaxHeader);
  }
  if (length > static_cast<uint64_t>(size - kLengthBytes)) {
    fail_at(file, 0, "header length {} does not fit the file of {} bytes; it is cut short", length,
            size);
  }
  return {reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, static_cast<size_t>(length)};
}

Shape read_shape(HeaderReader& header) {
  Shape shape;
  header.array("a shape", [&] {
    if (shape.rank() == kMaxRank) header.fail("the shape has more than {} dimensions", kMaxRank);
    shape.push_back(header.natural("a size"));
  });
  return shape;
}

// The bytes that a tensor of this type and shape takes; none when its type is unknown.
std::optional<int64_t> bytes_of(const HeaderReader& header, const SafetensorsInfo& info) {
  int64_t bits = 1;
  const Format* format = find_format(info.dtype);
  // Sizes of 0 count as 1 first: strides are computed from such a shape too.
  bool overflow = false;
  for (int64_t size : info.shape) {
    overflow |= __builtin_mul_overflow(bits, std::max<int64_t>(size, 1), &bits);
  }
  overflow |= __builtin_mul_overflow(bits, format == nullptr ? 64 : format->bits, &bits);
  if (overflow) header.fail("shape {} has too many elements", info.shape);
  if (format == nullptr) return std::nullopt;
  bits = info.shape.numel() * format->bits;
  if (bits % 8 != 0) header.fail("{} of shape {} do not fill bytes", info.dtype, info.shape);
  return bits / 8;
}

void check_range(const HeaderReader& header, const SafetensorsInfo& info, int64_t data_bytes) {
  if (info.begin > info.end || info.end > data_bytes) {
    header.fail("data_offsets [{}, {}] are not a range in {} bytes of data", info.begin, info.end,
                data_bytes);
  }
  const auto wanted = bytes_of(header, info);
  if (wanted && *wanted != info.end - info.begin) {
    header.fail("data_offsets [{}, {}] hold {} bytes, but {} of shape {} takes {}", info.begin,
                info.end, info.end - info.begin, info.dtype, info.shape, *wanted);
  }
}

SafetensorsInfo read_tensor(HeaderReader& header, const std::string& name, int64_t data_bytes) {
  SafetensorsInfo info{.name = name, .dtype = {}, .shape = {}};
  std::vector<int64_t> offsets;
  int fields = 0;
  header.set_tensor(name);
  header.object("an object with dtype, shape and data_offsets", [&](std::string_view key) {
    ++fields;
    if (key == "dtype") {
      info.dtype = header.string("a dtype");
    } else if (key == "shape") {
      info.shape = read_shape(header);
    } else if (key == "data_offsets") {
      header.array("data_offsets", [&] {
        if (offsets.size() == 2) header.fail("data_offsets are more than two");
        offsets.push_back(header.natural("an offset"));
      });
      if (offsets.size() != 2) header.fail("data_offsets are fewer than two");
    } else {
      header.fail("unknown field {}; it has dtype, shape and data_offsets", in_quotes(key));
    }
  });
  if (fields != 3) header.fail("a field is missing; it needs dtype, shape and data_offsets");
  info.begin = offsets[0];
  info.end = offsets[1];
  check_range(header, info, data_bytes);
  header.clear_tensor();
  return info;
}

// Every byte of the data belongs to one tensor.
void check_cover(std::string_view file, const std::vector<SafetensorsInfo>& sorted, int64_t begin,
                 int64_t end) {
  int64_t at = begin;
  for (const SafetensorsInfo& info : sorted) {
    if (info.begin < at) fail_tensor(file, info, info.begin, "its data overlaps another tensor's");
    if (info.begin > at) {
      fail_tensor(file, info, at, "{} bytes before its data belong to no tensor", info.begin - at);
    }
    at = info.end;
  }
  if (at != end) fail_at(file, at, "the last {} bytes belong to no tensor", end - at);
}

}  // namespace

SafetensorsFile SafetensorsFile::parse(std::span<const std::byte> bytes, std::string name) {
  SafetensorsFile result;
  result.name_ = std::move(name);
  result.bytes_ = bytes;
  const std::string_view text = header_text(bytes, result.name_);
  const auto size = static_cast<int64_t>(bytes.size());
  const int64_t data = kLengthBytes + static_cast<int64_t>(text.size());
  HeaderReader header(text, result.name_);
  header.object("the header, an object", [&](const std::string& key) {
    if (key == kMetadata) {
      header.object("an object of strings", [&](const std::string& entry) {
        result.metadata_[entry] = header.string("a string as metadata");
      });
      return;
    }
    SafetensorsInfo info = read_tensor(header, key, size - data);
    info.begin += data;
    info.end += data;
    result.infos_.push_back(std::move(info));
  });
  header.end();
  std::sort(result.infos_.begin(), result.infos_.end(), [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  check_cover(result.name_, result.infos_, data, size);
  for (size_t i = 0; i < result.infos_.size(); ++i) result.index_[result.infos_[i].name] = i;
  return result;
}

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  auto file = MappedFile::open(path);
  SafetensorsFile result = parse(file->bytes(), path);
  result.file_ = std::move(file);
  return result;
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> result;
  for (const SafetensorsInfo& info : infos_) result.push_back(info.name);
  return result;
}

bool SafetensorsFile::contains(std::string_view name) const {
  return index_.contains(name);
}

const SafetensorsInfo& SafetensorsFile::info(std::string_view name) const {
  const auto at = index_.find(name);
  check(at != index_.end(), "{}: no tensor {} among its {}", name_, in_quotes(name), infos_.size());
  return infos_[at->second];
}

Tensor SafetensorsFile::get(std::string_view name) const {
  const SafetensorsInfo& tensor = info(name);
  const Format* format = find_format(tensor.dtype);
  if (format == nullptr || !format->dtype) {
    fail_tensor(name_, tensor, tensor.begin,
                "element type {} is not supported; convert it to F32, F16 or BF16",
                in_quotes(tensor.dtype));
  }
  const DType dtype = *format->dtype;
  const auto begin = static_cast<size_t>(tensor.begin);
  const auto bytes = bytes_.subspan(begin, static_cast<size_t>(tensor.end - tensor.begin));
  if (dtype == DType::boolean) {
    const auto odd =
        std::find_if(bytes.begin(), bytes.end(), [](std::byte b) { return b > std::byte{1}; });
    if (odd != bytes.end()) {
      fail_tensor(name_, tensor, tensor.begin + (odd - bytes.begin()), "a bool is {}, not 0 or 1",
                  std::to_integer<int>(*odd));
    }
  }
  if (file_ != nullptr && tensor.begin % size_of(dtype) == 0) {
    auto storage =
        std::make_shared<Storage>(file_->data() + begin, tensor.end - tensor.begin, file_);
    return Tensor(std::move(storage), tensor.shape, contiguous_strides(tensor.shape), 0, dtype);
  }
  Tensor result = empty(tensor.shape, {dtype, {}});
  if (!bytes.empty()) std::memcpy(result.raw_data(), bytes.data(), bytes.size());
  return result;
}

namespace {

using Named = std::pair<std::string, Tensor>;

std::vector<Named> in_file_order(const std::string& path, std::vector<Named> tensors) {
  std::set<std::string_view> seen;
  for (const auto& [name, tensor] : tensors) {
    check(tensor.defined(), "{}: tensor {} has no value", path, in_quotes(name));
    check(tensor.device().is_cpu(), "{}: tensor {} is on {}; move it to the CPU first", path,
          in_quotes(name), tensor.device());
    check(name != kMetadata, "{}: a tensor cannot be called {}", path, in_quotes(name));
    check(seen.insert(name).second, "{}: two tensors are called {}", path, in_quotes(name));
  }
  std::stable_sort(tensors.begin(), tensors.end(), [](const Named& a, const Named& b) {
    return size_of(a.second.dtype()) > size_of(b.second.dtype());
  });
  return tensors;
}

std::string header_of(const std::string& path, const std::vector<Named>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[std::string(kMetadata)] = metadata;
  int64_t at = 0;
  for (const auto& [name, tensor] : tensors) {
    const int64_t end = at + tensor.numel() * size_of(tensor.dtype());
    const std::vector<int64_t> shape(tensor.shape().begin(), tensor.shape().end());
    header[name] = {
        {"dtype", format_name(tensor.dtype())}, {"shape", shape}, {"data_offsets", {at, end}}};
    at = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    fail("{}: a name or a metadata string is not UTF-8", path);
  }
  const auto size = static_cast<int64_t>(text.size());
  const int64_t padding = kDataAlignment - (kLengthBytes + size) % kDataAlignment;
  text.append(static_cast<size_t>(padding % kDataAlignment), ' ');
  check(size <= kMaxHeader, "{}: the header takes {} bytes, more than {}", path, size, kMaxHeader);
  return text;
}

}  // namespace

void write_safetensors(const std::string& path, const std::vector<Named>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  const std::vector<Named> ordered = in_file_order(path, tensors);
  const std::string header = header_of(path, ordered, metadata);
  const uint64_t length = header.size();
  write_file_atomic(path, [&](const FileSink& sink) {
    sink(std::as_bytes(std::span(&length, 1)));
    sink(std::as_bytes(std::span(header)));
    for (const auto& [name, tensor] : ordered) {
      const Tensor dense = tensor.is_contiguous() ? tensor : kernels::clone(tensor);
      const auto bytes = static_cast<size_t>(dense.numel() * size_of(dense.dtype()));
      if (bytes > 0) sink({static_cast<const std::byte*>(dense.raw_data()), bytes});
    }
  });
}

}  // namespace tessera
