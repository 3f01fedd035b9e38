#include "tessera/data/csv.h"

#include <algorithm>

#include "tessera/core/error.h"

namespace tessera {

namespace {

struct Parser {
  std::string_view text;
  const std::string& name;
  char separator;
  size_t at = 0;

  bool done() const { return at >= text.size(); }
  bool at_break() const {
    return text[at] == '\n' || (text[at] == '\r' && at + 1 < text.size() && text[at + 1] == '\n');
  }
  bool at_end_of_field() const { return done() || text[at] == separator || at_break(); }

  std::string quoted() {
    const size_t open = at++;
    std::string field;
    for (;; ++at) {
      check(!done(), "{}: byte {}: the quote is never closed", name, open);
      if (text[at] == '"' && (++at >= text.size() || text[at] != '"')) break;
      field += text[at];
    }
    check(at_end_of_field(), "{}: byte {}: text behind a closing quote", name, at);
    return field;
  }

  std::string field() {
    if (!done() && text[at] == '"') return quoted();
    const size_t start = at;
    while (!at_end_of_field()) ++at;
    return std::string(text.substr(start, at - start));
  }

  std::vector<std::string> row() {
    std::vector<std::string> fields{field()};
    while (!done() && text[at] == separator) {
      ++at;
      fields.push_back(field());
    }
    if (!done()) at += text[at] == '\r' ? 2 : 1;
    return fields;
  }
};

}  // namespace

size_t CsvTable::column(const std::string& name, const std::string& key) const {
  const auto found = std::find(header.begin(), header.end(), name);
  check(found != header.end(), "{}: no column \"{}\"; the file has {}", key, name,
        fmt::join(header, ", "));
  return static_cast<size_t>(found - header.begin());
}

CsvTable parse_csv(std::string_view text, const std::string& name, char separator) {
  Parser parser{text, name, separator};
  if (text.starts_with("\xEF\xBB\xBF")) parser.at = 3;
  CsvTable table;
  while (!parser.done()) {
    const size_t start = parser.at;
    std::vector<std::string> row = parser.row();
    if (row.size() == 1 && row[0].empty()) continue;
    if (table.header.empty()) {
      table.header = std::move(row);
      continue;
    }
    check(row.size() == table.header.size(), "{}: byte {}: the row has {} fields, the header {}",
          name, start, row.size(), table.header.size());
    table.rows.push_back(std::move(row));
  }
  check(!table.header.empty(), "{}: byte 0: the table is empty", name);
  return table;
}

}  // namespace tessera
