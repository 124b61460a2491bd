#include <cctype>
#include <cstdio>
#include <future>
#include <set>
#include <stdexcept>

#include "check.hpp"
#include "mutation.hpp"

using namespace limbeck::test;

// A refusal without its numbers and names: its kind.
static std::string kind_of(const std::string &line) {
  std::string kind;
  bool name = false;
  for (const char c : line.substr(0, line.find("; wanted"))) {
    if (c == '\'') name = !name;
    if (!name && !std::isdigit(static_cast<unsigned char>(c))) kind += c;
  }
  return kind;
}

struct Tally {
  unsigned long read = 0;
  std::set<std::string> kinds;
};

static Tally fuzz(const std::vector<Base> &bases, std::uint64_t seed, unsigned long inputs) {
  Random random(seed);
  Tally tally;
  for (unsigned long k = 0; k < inputs; ++k) {
    const std::string file = mutated(random, bases);
    try {
      const std::string line =
          read_mutated(reinterpret_cast<const unsigned char *>(file.data()), file.size());
      if (line.empty())
        ++tally.read;
      else
        tally.kinds.insert(kind_of(line));
    } catch (const std::exception &error) {
      throw std::runtime_error("input " + std::to_string(k) + " of stream " + std::to_string(seed) + ": " +
                               error.what());
    }
  }
  return tally;
}

TEST(fuzz_student_reader) {
  std::vector<Base> bases;
  for (const char *dtype : {"F32", "F64"})
    for (const int interactions : {1, 3}) bases.emplace_back(small_draft(interactions, dtype));
  // always four streams, so that the inputs depend on the seed and their number alone
  constexpr unsigned long streams = 4;
  const unsigned long inputs = arguments().inputs, seed = arguments().seed;
  std::vector<std::future<Tally>> parts;
  for (unsigned long k = 0; k < streams; ++k)
    parts.push_back(std::async(std::launch::async, fuzz, std::cref(bases), streams * seed + k,
                               inputs / streams + (k < inputs % streams)));
  Tally all;
  for (auto &part : parts) {
    Tally one = part.get();
    all.read += one.read;
    all.kinds.merge(one.kinds);
  }
  std::printf("       seed %lu: %lu inputs, %lu read, %zu kinds of refusal\n", seed, inputs, all.read,
              all.kinds.size());
  // the mutations pass the first checks, and corrupt most files
  if (inputs >= 20000) {
    CHECK(all.read > inputs / 50 && all.read < inputs / 2);
    CHECK(all.kinds.size() >= 40);
  }
}
