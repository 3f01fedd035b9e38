#include "tessera/config/registry.h"

#include <cstdio>
#include <cstdlib>
#include <map>

#include "tessera/config/json.h"
#include "tessera/config/nearest.h"

namespace tessera {
namespace {

using Entries = std::map<std::string, Entry, std::less<>>;

// Made when first used and never destroyed, so that static objects of any file may use it.
std::map<std::string, Entries, std::less<>>& registries() {
  static auto* all = new std::map<std::string, Entries, std::less<>>;
  return *all;
}

}  // namespace

std::vector<RegistryInfo> all_registries() {
  std::vector<RegistryInfo> infos;
  for (const auto& [kind, entries] : registries()) {
    RegistryInfo& info = infos.emplace_back(RegistryInfo{kind, {}});
    for (const auto& [name, entry] : entries) info.entries.push_back(entry);
  }
  return infos;
}

std::vector<Entry> find_entries(std::string_view name) {
  std::vector<Entry> found;
  for (const auto& [kind, entries] : registries()) {
    if (const auto entry = entries.find(name); entry != entries.end()) {
      found.push_back(entry->second);
    }
  }
  return found;
}

std::vector<std::string> registered_names(std::string_view kind) {
  std::vector<std::string> names;
  if (const auto entries = registries().find(kind); entries != registries().end()) {
    for (const auto& [name, entry] : entries->second) names.push_back(name);
  }
  return names;
}

const Entry& find_entry(std::string_view kind, std::string_view name, const std::string& path) {
  if (const auto entries = registries().find(kind); entries != registries().end()) {
    const auto entry = entries->second.find(name);
    if (entry != entries->second.end()) return entry->second;
  }
  const std::vector<std::string> names = registered_names(kind);
  config_fail(path, "unknown {} {}{} (known: {})", kind, preview(Json(name)),
              did_you_mean(name, names), fmt::join(names, ", "));
}

void add_entry(Entry entry) {
  Entries& entries = registries()[entry.kind];
  if (const auto found = entries.find(entry.name); found != entries.end()) {
    config_fail(entry.kind, "\"{}\" is registered twice, by {} and by {}", entry.name,
                found->second.registered_at, entry.registered_at);
  }
  std::string name = entry.name;
  entries.emplace(std::move(name), std::move(entry));
}

Registration::Registration(Entry entry, const char* class_name, const char* file) {
  entry.registered_at = fmt::format("{} in {}", class_name, file);
  try {
    add_entry(std::move(entry));
  } catch (const ConfigError& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::_Exit(2);
  }
}

std::optional<std::string> Entry::unsupported(std::string_view capability) const {
  for (const Unsupported& item : capabilities) {
    if (item.capability == capability) return item.reason;
  }
  return std::nullopt;
}

std::string Entry::describe() const {
  std::string title = fmt::format("{} ({}): {}\n", name, kind, summary);
  if (!source.empty()) title += fmt::format("source: {}\n", source);
  std::string text = describe_slot(*make_config()->slot(), title);
  if (!capabilities.empty()) text += "\nnot supported:\n";
  for (const Unsupported& item : capabilities) {
    text += fmt::format("  {}: {}\n", item.capability, item.reason);
  }
  return text;
}

}  // namespace tessera
