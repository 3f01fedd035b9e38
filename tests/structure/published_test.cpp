// Models of published sizes, from configs/published/, have exactly the published parameters.
#include <doctest/doctest.h>

#include <filesystem>

#include "tessera/config/json.h"
#include "tessera/core/file.h"
#include "tessera/core/random.h"
#include "tessera/train/config.h"

using namespace tessera;

namespace {

int64_t parameters_of_config(const std::string& name) {
  const auto file =
      std::filesystem::path(TESSERA_SOURCE_DIR) / "configs/published" / (name + ".json");
  const auto config = from_json<RunConfig>(Json::parse(read_file(file)), "");
  const auto data = config.data.build(DataContext{.base = file.parent_path()});
  RandomScope scope(1);
  return config.model.build(data->info())->parameter_count();
}

}  // namespace

TEST_SUITE("slow") {
  TEST_CASE("published vision models have exactly the published number of parameters") {
    CHECK(parameters_of_config("deit_ti") == 5'717'416);
    CHECK(parameters_of_config("deit_s") == 22'050'664);
    CHECK(parameters_of_config("deit_b") == 86'567'656);
    CHECK(parameters_of_config("convit_ti") == 5'710'512);
    CHECK(parameters_of_config("convit_s") == 27'777'322);
    CHECK(parameters_of_config("convit_b") == 86'540'040);
    CHECK(parameters_of_config("crate_t") == 6'090'856);
    CHECK(parameters_of_config("crate_s") == 13'116'328);
    CHECK(parameters_of_config("crate_b") == 22'796'008);
    CHECK(parameters_of_config("crate_l") == 77'641'192);
  }

  TEST_CASE("CRATE-GPT has the 60 million parameters of its paper") {
    CHECK(parameters_of_config("crate_gpt2_base") / 1'000'000 == 60);
  }
}
