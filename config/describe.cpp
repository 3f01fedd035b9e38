// The help table of a config.
#include <algorithm>
#include <array>

#include "tessera/config/fields.h"
#include "tessera/config/json.h"

namespace tessera {
namespace {

using Row = std::array<std::string, 5>;  // name, type, default, checks, documentation

size_t width(const std::string& text) {  // in code points
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string default_text(Slot& slot, bool has_rows_below) {
  if (slot.required() && !has_rows_below) return "(required)";
  const Json value = slot.write();
  if (value.is_object() && value.contains("type")) return value["type"].dump();
  return value.is_object() && has_rows_below ? "" : preview(value);
}

void add_rows(Fields& fields, const std::string& prefix, std::vector<Row>& rows) {
  const Descent descent(prefix);
  for (Field& field : fields.list()) {
    std::string path = join_path(prefix, field.name);
    Fields below;
    const std::string name = path;
    const bool has_rows_below = field.slot->nested(path, below);
    rows.push_back({name, field.slot->type(), default_text(*field.slot, has_rows_below),
                    field.checks.text(), field.doc});
    if (has_rows_below) add_rows(below, path, rows);
  }
}

std::string line(const Row& row, const std::array<size_t, 5>& widths) {
  std::string text = " ";
  for (size_t i = 0; i < row.size(); ++i) {
    text += " " + row[i] + std::string(widths[i] - width(row[i]) + 1, ' ');
  }
  return text.substr(0, text.find_last_not_of(' ') + 1) + "\n";
}

}  // namespace

std::string Checks::text() const {
  std::vector<std::string> parts;
  if (min) parts.push_back(fmt::format("≥ {}", *min));
  if (above) parts.push_back(fmt::format("> {}", *above));
  if (max) parts.push_back(fmt::format("≤ {}", *max));
  if (below) parts.push_back(fmt::format("< {}", *below));
  if (size) parts.push_back(fmt::format("{} elements", *size));
  if (!one_of.empty()) parts.push_back(fmt::format("{}", fmt::join(one_of, " | ")));
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string describe_slot(Slot& slot, const std::string& title) {
  std::string text = title.empty() ? "" : title + "\n";
  Fields fields;
  std::string prefix;
  std::vector<Row> rows = {{"name", "type", "default", "checks", "description"}};
  if (slot.nested(prefix, fields)) add_rows(fields, prefix, rows);
  if (rows.size() == 1) return text + "  (no options)\n";
  std::array<size_t, 5> widths{};
  for (const Row& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(row[i]));
  }
  for (const Row& row : rows) text += line(row, widths);
  return text;
}

}  // namespace tessera
