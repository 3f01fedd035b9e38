// Comma-separated values (RFC 4180).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tessera {

struct CsvTable {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;  // as many fields as the header

  // The position of a column; throws Error naming those there are.
  size_t column(const std::string& name, const std::string& key) const;
};

// The first line names the columns. Fields may be quoted, with "" for a quote and with line breaks
// inside; lines end with LF or CRLF; blank lines are skipped. Throws Error "FILE: byte N: …" for an
// open quote, text behind a closing one, or a row with another number of fields.
CsvTable parse_csv(std::string_view text, const std::string& name, char separator = ',');

}  // namespace tessera
