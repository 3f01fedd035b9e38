#include "tessera/config/json.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <fstream>
#include <iterator>
#include <set>
#include <vector>

#include "tessera/config/error.h"

namespace tessera {
namespace {

constexpr size_t kMaxFileBytes = size_t{64} << 20;

std::string location(const std::string& source, std::string_view text, size_t offset) {
  const std::string_view before = text.substr(0, std::min(offset, text.size()));
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const size_t newline = before.rfind('\n');
  const size_t column = before.size() - (newline == before.npos ? 0 : newline + 1) + 1;
  return fmt::format("{}:{}:{}", source, line, column);
}

// Walks the text and lets the parser's callback know how far it has come.
class Cursor {
 public:
  using iterator_category = std::forward_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  Cursor(const char* at, const char** reached) : at_(at), reached_(reached) {}
  reference operator*() const { return *at_; }
  Cursor& operator++() {
    *reached_ = ++at_;
    return *this;
  }
  Cursor operator++(int) {
    Cursor old = *this;
    ++*this;
    return old;
  }
  bool operator==(const Cursor& other) const { return at_ == other.at_; }

 private:
  const char* at_;
  const char** reached_;
};

// "[json.exception…] parse error at line 1, column 2: WHAT; last read: '…'; …" gives WHAT.
std::string parser_message(const std::string& what) {
  const size_t colon = what.find(": ");
  const std::string message = colon == what.npos ? what : what.substr(colon + 2);
  return message.substr(0, message.find("; last read"));
}

std::string read_text(const std::filesystem::path& path, const std::string& source) {
  std::error_code ignored;
  const auto status = std::filesystem::status(path, ignored);
  if (!std::filesystem::exists(status)) config_fail(source, "no such file");
  if (std::filesystem::is_directory(status)) config_fail(source, "is a directory, not a file");
  std::ifstream file(path, std::ios::binary);
  std::string text;
  std::vector<char> block(1 << 16);
  while (file.read(block.data(), static_cast<std::streamsize>(block.size())) || file.gcount() > 0) {
    text.append(block.data(), static_cast<size_t>(file.gcount()));
    if (text.size() > kMaxFileBytes) config_fail(source, "larger than {} bytes", kMaxFileBytes);
  }
  if (!file.eof()) config_fail(source, "cannot be read");
  return text;
}

std::vector<std::string> split_path(std::string_view path) {
  std::vector<std::string> keys;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    keys.emplace_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return keys;
}

// The child of `json` under `key`, made if need be; `path` is where `json` stands.
Json& enter(Json& json, const std::string& key, const std::string& path) {
  if (json.is_string()) json = Json{{"type", json}};
  if (json.is_null()) json = Json::object();
  if (json.is_object()) return json[key];
  const std::string where = join_path(path, key);
  if (!json.is_array()) config_fail(where, "{} is {}, which has no keys", path, preview(json));
  size_t index = 0;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), index);
  if (error != std::errc() || end != key.data() + key.size()) {
    config_fail(where, "{} is a list; give the number of an element", path);
  }
  if (index >= json.size()) {
    config_fail(where, "{} has {} elements, counted from 0", path, json.size());
  }
  return json[index];
}

}  // namespace

Json parse_json(std::string_view text, const std::string& source) {
  const char* reached = text.data();
  auto refuse = [&](const std::string& why) {
    config_fail(location(source, text, static_cast<size_t>(reached - text.data())), "{}", why);
  };
  if (text.find_first_not_of(" \t\r\n") == text.npos) refuse("the text is empty");
  std::vector<std::set<std::string>> seen;
  auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    using Event = Json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      if (depth >= kMaxJsonDepth) refuse(fmt::format("nested deeper than {}", kMaxJsonDepth));
      seen.emplace_back();
    } else if (event == Event::object_end || event == Event::array_end) {
      seen.pop_back();
    } else if (event == Event::key && !seen.back().insert(value.get<std::string>()).second) {
      refuse(fmt::format("the key {} is given twice", preview(value)));
    }
    return true;
  };
  try {
    return Json::parse(Cursor(text.data(), &reached), Cursor(text.data() + text.size(), &reached),
                       watch);
  } catch (const Json::parse_error& error) {
    const size_t offset = error.byte > 0 ? error.byte - 1 : 0;
    config_fail(location(source, text, offset), "{}", parser_message(error.what()));
  } catch (const Json::exception& error) {
    refuse(parser_message(error.what()));
  }
  return {};
}

Json read_json(const std::filesystem::path& path) {
  const std::string source = path.string();
  return parse_json(read_text(path, source), source);
}

void set_by_path(Json& json, std::string_view assignment) {
  const size_t equals = assignment.find('=');
  if (equals == assignment.npos || equals == 0) {
    throw ConfigError(
        fmt::format("--set {}: expected KEY=VALUE, such as train.steps=100", assignment));
  }
  const std::vector<std::string> keys = split_path(assignment.substr(0, equals));
  if (keys.size() > kMaxJsonDepth || std::find(keys.begin(), keys.end(), "") != keys.end()) {
    throw ConfigError(fmt::format("--set {}: a key is empty or nested deeper than {}",
                                  assignment.substr(0, std::min<size_t>(equals, 60)),
                                  kMaxJsonDepth));
  }
  const std::string text(assignment.substr(equals + 1));
  Json value;
  try {
    value = parse_json(text, "--set");
  } catch (const ConfigError&) {
    value = text;
  }
  Json* at = &json;
  std::string path;
  for (const std::string& key : keys) {
    at = &enter(*at, key, path);
    path = join_path(path, key);
  }
  *at = std::move(value);
}

std::string preview(const Json& json) {
  constexpr size_t kLongest = 60;
  std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() <= kLongest) return text;
  size_t end = kLongest;  // not inside a character
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end) + "…";
}

std::string join_path(const std::string& path, std::string_view key) {
  return path.empty() ? std::string(key) : fmt::format("{}.{}", path, key);
}

}  // namespace tessera
