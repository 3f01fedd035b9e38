// Everything registered is tested here without anyone writing the test again.
#include "tessera/models/conformance.h"

#include <doctest/doctest.h>

#include "tessera/attention/attention.h"
#include "tessera/config/fields.h"
#include "tessera/config/json.h"
#include "tessera/core/random.h"
#include "tessera/models/model.h"
#include "tessera/nn/feed_forward.h"
#include "tessera/nn/positions.h"

using namespace tessera;

TEST_SUITE("conformance") {
  TEST_CASE("every registered mechanism, layer and model has right gradients") {
    for (const GradcheckRow& row : gradcheck_rows()) {
      if (row.kind == "op") continue;  // tests/autograd checks the ops
      const GradcheckResult result = row.run();
      CHECK_MESSAGE(result.ok, row.kind << " " << row.name << ": " << result.message);
      CHECK(result.entries > 0);
    }
  }

  TEST_CASE("every registered config comes back from its own JSON") {
    for (const RegistryInfo& registry : all_registries()) {
      for (const Entry& entry : registry.entries) {
        CAPTURE(registry.kind);
        CAPTURE(entry.name);
        CHECK(entry.default_json()["type"] == entry.name);
        CHECK(entry.schema().is_object());
        CHECK_FALSE(entry.describe().empty());
      }
    }
  }

  TEST_CASE("every registered model lists each of its parameters exactly once and restores them") {
    const DataInfo info{
        .vocabulary = 7, .context = 6, .channels = 3, .height = 8, .width = 8, .classes = 3};
    for (const std::string& type : registered_names(Model::kKind)) {
      CAPTURE(type);
      RandomScope scope(1);
      const int64_t before = parameters_born();
      auto a = Choice<Model>(type).build(info);
      CHECK(parameters_born() - before == static_cast<int64_t>(a->parameters().size()));
      auto b = Choice<Model>(type).build(info);
      b->load_state(a->state());
      const auto pa = a->state();
      const auto pb = b->state();
      for (size_t i = 0; i < pa.size(); ++i) {
        CHECK(pa[i].first == pb[i].first);
        CHECK(pa[i].second.to_vector<float>() == pb[i].second.to_vector<float>());
      }
    }
  }
}
