// JSON Schema (draft 2020-12) of a config, for editors.
#include <algorithm>

#include "tessera/config/fields.h"
#include "tessera/config/json.h"

namespace tessera {
namespace {

Json number(double value) {  // 0 rather than 0.0
  const auto whole = static_cast<int64_t>(std::clamp(value, -1e15, 1e15));
  return static_cast<double>(whole) == value ? Json(whole) : Json(value);
}

void add_checks(const Checks& checks, Json& schema) {
  if (checks.min) schema["minimum"] = number(*checks.min);
  if (checks.max) schema["maximum"] = number(*checks.max);
  if (checks.above) schema["exclusiveMinimum"] = number(*checks.above);
  if (checks.below) schema["exclusiveMaximum"] = number(*checks.below);
  for (const std::string& text : checks.one_of) schema["enum"].push_back(Json::parse(text));
}

}  // namespace

void Checks::add_to_schema(Json& schema) const {
  if (size) schema["minItems"] = schema["maxItems"] = *size;
  if (schema.contains("items")) {
    add_checks(*this, schema["items"]);
  } else if (schema.contains("additionalProperties") &&
             schema["additionalProperties"].is_object()) {
    add_checks(*this, schema["additionalProperties"]);
  } else if (schema.contains("anyOf")) {
    add_checks(*this, schema["anyOf"][0]);
  } else {
    add_checks(*this, schema);
  }
}

Json StructSlot::schema(Json& defs) {
  const Descent descent("schema");
  Fields fields;
  list(fields);
  Json properties = Json::object();
  Json required = Json::array();
  for (Field& field : fields.list()) {
    Json schema = field.slot->schema(defs);
    field.checks.add_to_schema(schema);
    schema["description"] = field.doc;
    if (field.slot->required()) {
      required.push_back(field.name);
    } else {
      schema["default"] = field.slot->write();
    }
    properties[field.name] = std::move(schema);
  }
  Json schema = {{"type", "object"}, {"properties", std::move(properties)}};
  if (!required.empty()) schema["required"] = std::move(required);
  schema["additionalProperties"] = false;
  return schema;
}

Json OptionalSlot::schema(Json& defs) {
  return {{"anyOf", Json::array({prototype()->schema(defs), Json{{"type", "null"}}})}};
}

Json ListSlot::schema(Json& defs) {
  return {{"type", "array"}, {"items", prototype()->schema(defs)}};
}

Json MapSlot::schema(Json& defs) {
  return {{"type", "object"}, {"additionalProperties", prototype()->schema(defs)}};
}

Json schema_slot(Slot& slot) {
  Json defs = Json::object();
  Json schema = {{"$schema", "https://json-schema.org/draft/2020-12/schema"}};
  schema.update(slot.schema(defs));
  if (!defs.empty()) schema["$defs"] = std::move(defs);
  return schema;
}

}  // namespace tessera
