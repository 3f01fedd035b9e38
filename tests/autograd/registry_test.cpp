// Every registered op, on every one of its samples: values against its definition, gradients of
// first and second order against central differences in f64, and the wrong calls it must refuse.
#include <doctest/doctest.h>

#include "tessera/autograd/gradcheck.h"

using namespace tessera;

TEST_SUITE("gradient") {
  TEST_CASE("every registered op has the gradients it promises") {
    for (const OpInfo* op : OpRegistry::instance().all()) {
      CAPTURE(op->name);
      const GradcheckResult result = check_op(*op);
      CHECK_MESSAGE(result.ok, op->name << ": " << result.message);
    }
  }
}

TEST_CASE("every registered op refuses wrong calls with an error that begins with its name") {
  for (const OpInfo* op : OpRegistry::instance().all()) {
    for (size_t i = 0; i < op->wrong_calls.size(); ++i) {
      CAPTURE(op->name);
      CAPTURE(i);
      std::string message;
      try {
        op->wrong_calls[i]();
      } catch (const Error& error) {
        message = error.what();
      }
      CHECK_MESSAGE(message.starts_with(op->name), "got: \"" << message << "\"");
    }
  }
}

TEST_CASE("every registered op has samples and a formula") {
  for (const OpInfo* op : OpRegistry::instance().all()) {
    CAPTURE(op->name);
    CHECK_FALSE(op->formula.empty());
    CHECK_FALSE(op->samples().empty());
  }
}
