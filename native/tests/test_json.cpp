#include <cmath>
#include <limits>
#include <locale>

#include "check.hpp"
#include "limbeck/json.hpp"

using namespace limbeck;
using json::Kind;
using json::Value;

static Value python(const std::string &text) {
  json::Options options;
  options.python = true;
  return json::parse(text, options);
}

static std::string refusal(const std::string &text) { return THROWN(json::Error, json::parse(text)); }

static std::string text_of(const std::string &text) { return json::parse(text).text; }

TEST(json_values) {
  const Value value = json::parse(" {\"a\" : [1, -2.5e1, \"x\", null, true, false, {}, []], \"\":0}\t\r\n");
  CHECK(value.kind == Kind::object && value.items.size() == 2 && value.names[1].empty());
  const Value &a = *value.find("a");
  CHECK(a.kind == Kind::array && a.items.size() == 8);
  CHECK(a.items[0].integer && a.items[0].number == 1);
  CHECK(!a.items[1].integer && a.items[1].number == -25);
  CHECK(a.items[2].kind == Kind::string && a.items[2].text == "x");
  CHECK(a.items[3].kind == Kind::null);
  CHECK(a.items[4].kind == Kind::boolean && a.items[4].truth);
  CHECK(a.items[5].kind == Kind::boolean && !a.items[5].truth);
  CHECK(a.items[6].kind == Kind::object && a.items[7].kind == Kind::array);
  CHECK(value.find("b") == nullptr && a.find("a") == nullptr);
}

TEST(json_numbers) {
  const auto number = [](const std::string &text) { return json::parse(text).number; };
  CHECK(number("0") == 0 && std::signbit(number("-0")) && number("-0.0e+05") == 0);
  CHECK(number("0.1") == 0.1 && number("1.7976931348623157e308") == std::numeric_limits<double>::max());
  CHECK(number("5e-324") == std::numeric_limits<double>::denorm_min());
  CHECK(number("18446744073709551616") == 18446744073709551616.0);
  CHECK(number("0." + std::string(400, '0') + "1e401") == 1);
  CHECK(number("1" + std::string(400, '0') + "e-400") == 1);
  CHECK(number("1e-999") == 0 && std::signbit(number("-1e-99999999999999999999999")));
  CHECK(number("0." + std::string(400, '0') + "1") == 0);
  CHECK(number("0e99999999999999999999") == 0);
  for (const char *huge : {"1e999", "-1e309", "0.01e99999999999999999999999"}) {
    CHECK_EQUAL(refusal(huge).substr(0, 42), "a JSON number beyond the range of double a");
    CHECK(std::isinf(python(huge).number) && (huge[0] == '-') == std::signbit(python(huge).number));
  }
  CHECK(std::isinf(python("1" + std::string(400, '0')).number));
  for (const char *bad : {"-", "+1", "01", ".5", "1.", "1e", "1e+", "0x1", "1_0", "--1", "1.e5", "NaN",
                          "Infinity", "-Infinity", "nan", "1 2"})
    CHECK(refusal(bad) != "nothing thrown");
  CHECK(std::isnan(python("NaN").number) && python("Infinity").number > 1e308);
  CHECK(python("[-Infinity]").items[0].number < -1e308 && !python("Infinity").integer);
}

struct Comma : std::numpunct<char> {
  char do_decimal_point() const override { return ','; }
  char do_thousands_sep() const override { return '.'; }
  std::string do_grouping() const override { return "\3"; }
};

TEST(json_numbers_in_any_locale) {
  const std::locale before = std::locale::global(std::locale(std::locale(), new Comma));
  CHECK(json::parse("1234.5").number == 1234.5);
  CHECK(refusal("1,5") == "text after the end of the JSON value at byte 1");
  std::locale::global(before);
}

TEST(json_strings) {
  CHECK_EQUAL(text_of(R"("\"\\\/\b\f\n\r\t")"), "\"\\/\b\f\n\r\t");
  CHECK_EQUAL(text_of(R"("\u0041\u00e9\u20AC\ud83d\ude00")"), "Aé€😀");
  CHECK_EQUAL(text_of("\"Aé€😀\x7f\""), "Aé€😀\x7f");
  CHECK_EQUAL(text_of(R"("\u0000")"), std::string(1, '\0'));
  for (const char *lone :
       {R"("\ud800")", R"("\udc00")", R"("\ud83dx")", R"("\ud83d\n")", R"("\ud83d\u0041")"}) {
    CHECK_EQUAL(refusal(lone).substr(0, 42), "half of a surrogate pair in a JSON string ");
    CHECK(python(lone).kind == Kind::string);
  }
  CHECK_EQUAL(python(R"("\ud83d\u0041")").text,
              "\xED\xA0\xBD"
              "A");
  CHECK_EQUAL(python(R"("\ud800\ud83d\ude00")").text, "\xED\xA0\x80😀");
  for (const char *bad : {R"("\u12")", R"("\u12g4")", R"("\u-123")", R"("\u 123")", R"("\u+123")", R"("\x")",
                          R"("\)", R"("\u)", R"("\ud83d\u)", "\"", "\"abc", "\"\n\"", "\"\x1f\"", "'a'"})
    CHECK(refusal(bad) != "nothing thrown");
}

TEST(json_utf8) {
  for (const char *bad : {"\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xC3", "\xC3(", "\xE0\x9F\xBF", "\xE2\x82",
                          "\xED\xA0\x80", "\xED\xBF\xBF", "\xF0\x8F\xBF\xBF", "\xF0\x9F\x98",
                          "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xFE\xFF"})
    CHECK_EQUAL(refusal(std::string("\"") + bad + "\""), "a JSON string that is not UTF-8 at byte 1");
  for (const char *good : {"\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
                           "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"})
    CHECK_EQUAL(text_of(std::string("\"") + good + "\""), good);
  CHECK_EQUAL(refusal("\xEF\xBB\xBF{}"), "no JSON value at byte 0");
}

TEST(json_structure) {
  for (const char *bad :
       {"",      " ",    "{",     "[",       "]",        "}",          "[1",    "[1,",
        "[1,]",  "[,1]", "[1 2]", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{1:2}", "{\"a\":1 \"b\":2}",
        "{a:1}", "tru",  "nul",   "True",    "[1}",      "{\"a\":1]",  "{}{}",  "null x",
        "/**/1"})
    CHECK(refusal(bad) != "nothing thrown");
  CHECK_EQUAL(refusal(std::string("1\0", 2)), "text after the end of the JSON value at byte 1");
  CHECK_EQUAL(refusal("{\"a\":1,\"b\":2,\"a\":1}"), "the name 'a' twice in a JSON object at byte 19");
  CHECK_EQUAL(refusal(R"({"a":1,"\u0061":1})"), "the name 'a' twice in a JSON object at byte 18");
  CHECK_EQUAL(json::parse("{\"a\":{\"a\":1},\"b\":{\"a\":2}}").find("b")->find("a")->number, 2);
}

TEST(json_bounds) {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  CHECK_EQUAL(refusal(nested(127)), "nothing thrown");
  CHECK_EQUAL(refusal(nested(128)), "JSON nested deeper than 127 at byte 127");
  CHECK_EQUAL(refusal(std::string(10'000'000, '[')), "JSON nested deeper than 127 at byte 127");
  std::string objects;
  for (int k = 0; k < 1000; ++k) objects += "{\"a\":";
  CHECK_EQUAL(refusal(objects), "JSON nested deeper than 127 at byte 635");
  json::Options few;
  few.values = 5;
  CHECK(json::parse("[0,0,0,0]", few).items.size() == 4);
  CHECK_EQUAL(THROWN(json::Error, json::parse("[0,0,0,0,0]", few)), "more than 5 JSON values at byte 9");
}
