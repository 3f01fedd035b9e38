// Choice: reading, writing and schema.
#include <map>
#include <mutex>

#include "tessera/config/json.h"
#include "tessera/config/registry.h"

namespace tessera {
namespace {

// The defaults of an entry, made when first asked for and kept for good.
const ConfigBox& default_config(const Entry& entry) {
  static auto* mutex = new std::mutex;
  static auto* configs = new std::map<const Entry*, std::unique_ptr<ConfigBox>>;
  const std::lock_guard lock(*mutex);
  auto& config = (*configs)[&entry];
  if (!config) config = entry.make_config();
  return *config;
}

std::string known(const char* kind) {
  return fmt::format("known: {}", fmt::join(registered_names(kind), ", "));
}

Json reference(const std::string& name) {
  return {{"$ref", "#/$defs/" + name}};
}

// The object form of an entry; its "type" may be left out.
Json object_schema(const Entry& entry, Json& defs) {
  Json schema = entry.make_config()->slot()->schema(defs);
  Json properties = {{"type", {{"const", entry.name}}}};
  properties.update(schema["properties"]);
  schema["properties"] = std::move(properties);
  Json described = {{"description", entry.summary}};
  described.update(schema);
  return described;
}

// Adds "KIND", any registered class by name or by object, and "KIND.NAME" for each to `defs`.
void add_kind(const char* kind, Json& defs) {
  if (defs.contains(kind)) return;
  defs[kind] = nullptr;  // a class whose config holds its own kind finds it here
  const std::vector<std::string> names = registered_names(kind);
  Json forms = Json::array({Json{{"enum", names}}});
  for (const std::string& name : names) {
    const std::string key = join_path(kind, name);
    Json schema = object_schema(find_entry(kind, name, kind), defs);
    defs[key] = std::move(schema);
    forms.push_back(reference(key));
    forms.back()["required"] = {"type"};
  }
  defs[kind] = {{"oneOf", std::move(forms)}};
}

}  // namespace

class ChoiceSlot final : public Slot {
 public:
  explicit ChoiceSlot(ChoiceBase& choice) : choice_(choice) {}

  void read(const Json& json, const std::string& path) override {
    if (json.is_string()) {
      choose(json.get<std::string>(), path);
      return read_absent(path);
    }
    if (!json.is_object()) {
      config_fail(path, "expected the name of one {} or an object with its \"type\", got {} ({})",
                  choice_.kind(), preview(json), known(choice_.kind()));
    }
    const std::string where = join_path(path, "type");
    const auto type = json.find("type");
    if (type != json.end() && !type->is_string()) {
      config_fail(where, "expected a string, got {}", preview(*type));
    }
    if (type != json.end()) choose(type->get<std::string>(), where);
    if (choice_.type().empty()) config_fail(where, "missing; {}", known(choice_.kind()));
    choose(choice_.type(), where);
    choice_.box().slot()->read_fields(json, path, "type");
  }

  void read_absent(const std::string& path) override {
    if (choice_.type().empty()) {
      config_fail(path, "missing; give {{\"type\": …}} ({})", known(choice_.kind()));
    }
    choose(choice_.type(), path);
    choice_.box().slot()->read_absent(path);
  }

  Json write() override {
    if (choice_.type().empty()) return nullptr;
    const auto box = std::as_const(choice_).box().clone();
    Json json = {{"type", choice_.type()}};
    json.update(box->slot()->write());
    return json;
  }

  std::string type() override { return choice_.kind(); }
  bool required() override { return choice_.type().empty(); }

  // With a default type the object may leave "type" out.
  Json schema(Json& defs) override {
    add_kind(choice_.kind(), defs);
    const Json any = reference(choice_.kind());
    if (required()) return any;
    return {{"anyOf", {any, reference(join_path(choice_.kind(), choice_.type()))}}};
  }

 private:
  void choose(const std::string& type, const std::string& path) {
    find_entry(choice_.kind(), type, path);
    if (type == choice_.type()) return;
    choice_.type_ = type;
    choice_.box_.reset();
  }

  ChoiceBase& choice_;
};

std::unique_ptr<Slot> make_slot(ChoiceBase& value) {
  return std::make_unique<ChoiceSlot>(value);
}

ChoiceBase::ChoiceBase(const ChoiceBase& other)
    : kind_(other.kind_), type_(other.type_), box_(other.box_ ? other.box_->clone() : nullptr) {}

ChoiceBase& ChoiceBase::operator=(const ChoiceBase& other) {
  return *this = ChoiceBase(other);
}

const Entry& ChoiceBase::entry() const {
  if (type_.empty()) {
    config_fail(kind_, "nothing is chosen ({})", known(kind_));
  }
  return find_entry(kind_, type_, kind_);
}

const ConfigBox& ChoiceBase::box() const {
  return box_ ? *box_ : default_config(entry());
}

ConfigBox& ChoiceBase::box() {
  if (!box_) box_ = entry().make_config();
  return *box_;
}

bool ChoiceBase::operator==(const ChoiceBase& other) const {
  ChoiceBase mine = *this;
  ChoiceBase theirs = other;
  return type_ == other.type_ && ChoiceSlot(mine).write() == ChoiceSlot(theirs).write();
}

void fail_config_type(const ChoiceBase& choice) {
  config_fail(choice.kind(), "the config of \"{}\" is of another type than asked for",
              choice.type());
}

Json Entry::schema() const {
  Json defs = Json::object();
  Json schema = {{"$schema", "https://json-schema.org/draft/2020-12/schema"}, {"title", name}};
  schema.update(object_schema(*this, defs));
  if (!defs.empty()) schema["$defs"] = std::move(defs);
  return schema;
}

Json Entry::default_json() const {
  Json json = {{"type", name}};
  json.update(make_config()->slot()->write());
  return json;
}

}  // namespace tessera
