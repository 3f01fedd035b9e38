// Json: the text form of configs, with keys in the order written.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace tessera {

using Json = nlohmann::ordered_json;

constexpr int kMaxJsonDepth = 100;

// Parses a JSON text (RFC 8259). A syntax error, invalid UTF-8, a repeated key or a nesting deeper
// than kMaxJsonDepth throws ConfigError "SOURCE:LINE:COLUMN: …".
Json parse_json(std::string_view text, const std::string& source);

// Parses a file; one that is missing, empty, a directory or not readable throws ConfigError too.
Json read_json(const std::filesystem::path& path);

// Applies `--set`: "train.steps=100" or "layers.0.width=8". The value is JSON, or else taken as a
// string. Objects are made on the way; a number indexes a list; a string that is entered, such as
// "optimizer": "adamw", becomes {"type": "adamw"}. Throws ConfigError.
void set_by_path(Json& json, std::string_view assignment);

// The value as one line of at most about 60 bytes, for error messages.
std::string preview(const Json& json);

// "" and "a" give "a"; "a" and "b" give "a.b".
std::string join_path(const std::string& path, std::string_view key);

}  // namespace tessera
