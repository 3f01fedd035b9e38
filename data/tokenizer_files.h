// Tokenizers in the files of other programs.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tessera/data/tokenizer.h"

namespace tessera {

// Objects of the size of a vocabulary want look-up by key, not the order of a config.
using PlainJson = nlohmann::json;

PlainJson read_plain_json(const std::filesystem::path& path);  // Error naming the byte
// Null for what is no object and for a key that is absent.
const PlainJson& member(const PlainJson& json, const char* key);

// The vocabulary of a file: token text → id, where ids are 0 … n − 1 each once.
std::vector<std::string> tokens_in_order(const PlainJson& vocabulary, const std::string& where);

// Tokens that encoding puts before a text, and with which a text ends; empty for none.
struct TextMarks {
  std::string begin, end;
};

// Of the post-processor of a tokenizer.json (null: there is none) and of tokenizer_config.json and
// special_tokens_map.json in `folder`. "add_bos_token" decides whether the text gets its begin,
// without it the post-processor; "eos_token" is the end, without it what the post-processor
// appends.
TextMarks read_text_marks(const std::filesystem::path& folder, const PlainJson& tokenizer);

// The tokenizer of a file (tokenizer.json, vocab.txt, llama2.c's tokenizer.bin) or of a folder, by
// what it holds. A vocabulary smaller than `size` is widened by empty tokens, a larger one refused
// (0: as it is): models have rows that no text reaches.
bool has_tokenizer(const std::filesystem::path& folder);
std::unique_ptr<Tokenizer> open_tokenizer(const std::filesystem::path& path, int64_t size = 0);

}  // namespace tessera
