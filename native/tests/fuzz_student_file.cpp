// For clang's libFuzzer, which guides the mutations by coverage: limbeck_fuzz CORPUS_FOLDER STUDENTS_FOLDER.
#include <cstddef>
#include <cstdint>

#include "mutation.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *bytes, std::size_t size) {
  limbeck::test::read_mutated(bytes, size);
  return 0;
}
