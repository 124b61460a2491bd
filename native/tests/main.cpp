// limbeck_tests STUDENTS [INPUTS [SEED [CASE]]]: every case, or those whose name holds CASE.
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "check.hpp"

namespace limbeck::test {

std::vector<Case> &cases() {
  static std::vector<Case> all;
  return all;
}

Arguments &arguments() {
  static Arguments given;
  return given;
}

static unsigned long checks = 0, failures = 0;

void count(bool passed, const char *file, int line, const std::string &text) {
  ++checks;
  if (passed) return;
  ++failures;
  std::fprintf(stderr, "%s:%d: failed: %s\n", file, line, text.c_str());
}

static void run(const Case &one) {
  const unsigned long before = failures;
  try {
    one.run();
  } catch (const std::exception &error) {
    count(false, one.name, 0, std::string("an exception left the case: ") + error.what());
  }
  std::printf("%s %s\n", failures == before ? "ok    " : "FAILED", one.name);
  std::fflush(stdout);
}

}  // namespace limbeck::test

int main(int argc, char **argv) {
  using namespace limbeck::test;
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s STUDENTS [INPUTS [SEED [CASE]]]\n", argv[0]);
    return 2;
  }
  arguments().students = argv[1];
  if (argc > 2) arguments().inputs = std::strtoul(argv[2], nullptr, 10);
  if (argc > 3) arguments().seed = std::strtoul(argv[3], nullptr, 10);
  unsigned long ran = 0;
  for (const Case &one : cases()) {
    if (argc > 4 && std::string(one.name).find(argv[4]) == std::string::npos) continue;
    run(one);
    ++ran;
  }
  std::printf("%lu cases, %lu checks, %lu failed\n", ran, checks, failures);
  return failures || !ran ? 1 : 0;
}
