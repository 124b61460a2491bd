// Checks of the core's own tests: a failed one is printed and counted, and the case continues.
#pragma once

#include <sstream>
#include <string>
#include <vector>

namespace limbeck::test {

struct Case {
  const char *name;
  void (*run)();
};

// What the command line names.
struct Arguments {
  std::string students;         // folder of the released students
  unsigned long inputs = 1000;  // of the fuzz
  unsigned long seed = 1;
};

std::vector<Case> &cases();
Arguments &arguments();
void count(bool passed, const char *file, int line, const std::string &text);

struct Registration {
  Registration(const char *name, void (*run)()) { cases().push_back({name, run}); }
};

template <class A, class B>
void count_equal(const A &got, const B &wanted, const char *file, int line, const char *text) {
  const bool same = got == wanted;
  std::ostringstream line_text;
  if (!same) line_text << text << ": got\n    " << got << "\n  wanted\n    " << wanted;
  count(same, file, line, line_text.str());
}

}  // namespace limbeck::test

// Every .cpp of this folder adds its cases by itself: TEST(name) { CHECK(...); }
#define TEST(name)                                                          \
  static void name();                                                       \
  static const ::limbeck::test::Registration register_##name(#name, &name); \
  static void name()

#define CHECK(condition) ::limbeck::test::count(static_cast<bool>(condition), __FILE__, __LINE__, #condition)
#define CHECK_EQUAL(got, wanted) ::limbeck::test::count_equal(got, wanted, __FILE__, __LINE__, #got)

// The text of the exception that the expression throws, or "nothing thrown".
#define THROWN(exception, expression)  \
  [&]() -> std::string {               \
    try {                              \
      static_cast<void>(expression);   \
    } catch (const exception &error) { \
      return error.what();             \
    }                                  \
    return "nothing thrown";           \
  }()
