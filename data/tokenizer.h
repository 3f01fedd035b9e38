// Tokenizers turn text into ids and back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/config/registry.h"
#include "tessera/data/utf8.h"

namespace tessera {

struct DataContext;

struct Tokenizer {
  static constexpr const char* kKind = "tokenizer";
  using Build = std::unique_ptr<Tokenizer>(const DataContext&);

  virtual ~Tokenizer() = default;
  virtual int64_t vocabulary() const = 0;
  // Throws Error for what the vocabulary cannot express, naming it and its byte offset.
  virtual std::vector<int64_t> encode(std::string_view text) const = 0;
  // The same for text that follows other text: without what goes before a text (a space).
  virtual std::vector<int64_t> encode_more(std::string_view text) const { return encode(text); }
  // The last place where `text` may be divided, whatever follows it, so that the ids of both parts,
  // the second encoded as more, are those of the whole; 0 for none.
  virtual size_t last_cut(std::string_view /*text*/) const { return 0; }
  // The bytes of the ids; throws Error for an id outside the vocabulary. Bytes of one character may
  // come from several ids: show them through a Utf8Stream.
  virtual std::string decode(std::span<const int64_t> ids) const = 0;
  // The id that a model of this tokenizer expects before a text (Llama's <s>), and the one with
  // which it says that a text has ended; none where the tokenizer's files name none. encode() adds
  // neither.
  virtual std::optional<int64_t> begin_of_text() const { return {}; }
  virtual std::optional<int64_t> end_of_text() const { return {}; }
  // Learns the vocabulary from a dataset's text. Nothing to do by default.
  virtual void learn(std::string_view /*text*/) {}
  // The config that builds this tokenizer as it is now, with all it learned.
  virtual Json state() const = 0;
};

// Bytes as they are: 256 ids.
class ByteTokenizer : public Tokenizer {
 public:
  struct Config {
    TESSERA_FIELDS(f)
    { (void)f; }
  };
  ByteTokenizer() = default;
  ByteTokenizer(const Config&, const DataContext&) {}
  int64_t vocabulary() const override { return 256; }
  std::vector<int64_t> encode(std::string_view text) const override;
  size_t last_cut(std::string_view text) const override { return text.size(); }
  std::string decode(std::span<const int64_t> ids) const override;
  Json state() const override;
};

// The distinct characters (code points) of the text, ids in ascending order; a byte of invalid
// UTF-8 is a character of its own behind all code points, so every text makes the round trip.
class CharTokenizer : public Tokenizer {
 public:
  struct Config {
    std::vector<int64_t> alphabet;
    TESSERA_FIELDS(f)
    {
      f("alphabet", alphabet,
        "ascending code points (1114112 + b: the byte b of invalid UTF-8); empty: learned from the "
        "text")
          .min(0)
          .max(kSymbols - 1);
    }
  };
  CharTokenizer() = default;
  CharTokenizer(const Config& config, const DataContext&);  // throws Error unless they ascend
  int64_t vocabulary() const override { return static_cast<int64_t>(alphabet_.size()); }
  std::vector<int64_t> encode(std::string_view text) const override;
  size_t last_cut(std::string_view text) const override;
  std::string decode(std::span<const int64_t> ids) const override;
  void learn(std::string_view text) override;  // adds to the alphabet, unless the config gave one
  Json state() const override;

 private:
  void set_alphabet(std::u32string alphabet);
  bool fixed_ = false;
  std::u32string alphabet_;   // ascending symbols of utf8.h
  std::vector<int32_t> ids_;  // by symbol, −1 where unknown
};

}  // namespace tessera
