#include "limbeck/json.hpp"

#include <algorithm>
#include <charconv>
#include <limits>
#include <locale>
#include <sstream>
#include <system_error>

namespace limbeck::json {

int utf8_length(const char *p, const char *end) {
  if (p < end && static_cast<unsigned char>(*p) < 0x80) return 1;
  const auto byte = [&](int k) { return p + k < end ? static_cast<unsigned char>(p[k]) : 0u; };
  const auto tail = [&](int k, unsigned low = 0x80, unsigned high = 0xBF) {
    return byte(k) >= low && byte(k) <= high;
  };
  const unsigned lead = byte(0);
  if (lead >= 0xC2 && lead <= 0xDF) return tail(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF)
    return tail(1, lead == 0xE0 ? 0xA0 : 0x80, lead == 0xED ? 0x9F : 0xBF) && tail(2) ? 3 : 0;
  if (lead >= 0xF0 && lead <= 0xF4)
    return tail(1, lead == 0xF0 ? 0x90 : 0x80, lead == 0xF4 ? 0x8F : 0xBF) && tail(2) && tail(3) ? 4 : 0;
  return 0;
}

namespace {

class Reader {
 public:
  Reader(std::string_view text, Options options)
      : begin_(text.data()), at_(begin_), end_(begin_ + text.size()), options_(options) {}

  Value document() {
    Value value = any(options_.depth);
    space();
    if (at_ != end_) fail("text after the end of the JSON value");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string &what) const {
    throw Error(what, static_cast<std::size_t>(at_ - begin_));
  }
  bool take(std::string_view word) {
    if (static_cast<std::size_t>(end_ - at_) < word.size() || std::string_view(at_, word.size()) != word)
      return false;
    at_ += word.size();
    return true;
  }
  bool one_of(std::string_view set) const { return at_ < end_ && set.find(*at_) != std::string_view::npos; }
  void space() {
    while (one_of(" \t\n\r")) ++at_;
  }

  Value any(int depth) {
    space();
    if (++count_ > options_.values) fail("more than " + std::to_string(options_.values) + " JSON values");
    Value value;
    if (one_of("{[")) {
      if (depth == 0) fail("JSON nested deeper than " + std::to_string(options_.depth));
      container(value, depth - 1);
    } else if (one_of("\"")) {
      value.kind = Kind::string, value.text = string();
    } else if (!word(value)) {
      if (!one_of("-0123456789")) fail("no JSON value");
      number(value);
    }
    return value;
  }

  // true, false, null and, of Python, the numbers that JSON lacks.
  bool word(Value &value) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    const auto is = [&](std::string_view text, Kind kind, bool truth, double number) {
      if (!take(text)) return false;
      value.kind = kind, value.truth = truth, value.number = number;
      return true;
    };
    if (is("null", Kind::null, false, 0) || is("true", Kind::boolean, true, 0) ||
        is("false", Kind::boolean, false, 0))
      return true;
    return options_.python &&
           (is("NaN", Kind::number, false, std::numeric_limits<double>::quiet_NaN()) ||
            is("Infinity", Kind::number, false, infinity) || is("-Infinity", Kind::number, false, -infinity));
  }

  void container(Value &value, int depth) {
    const bool object = *at_++ == '{';
    value.kind = object ? Kind::object : Kind::array;
    const std::string_view close = object ? "}" : "]";
    space();
    if (take(close)) return;
    do {
      if (object) {
        space();
        if (!one_of("\"")) fail("no name of a JSON member");
        value.names.push_back(string());
        space();
        if (!take(":")) fail("no ':' after the name of a JSON member");
      }
      value.items.push_back(any(depth));
      space();
    } while (take(","));
    if (!take(close)) fail("no ',' or end of a JSON array or object");
    std::vector<std::string_view> sorted(value.names.begin(), value.names.end());
    std::sort(sorted.begin(), sorted.end());
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    if (twice != sorted.end()) fail("the name '" + std::string(*twice) + "' twice in a JSON object");
  }

  void digits() {
    if (!one_of("0123456789")) fail("no digit in a JSON number");
    while (one_of("0123456789")) ++at_;
  }

  void number(Value &value) {
    const char *start = at_;
    take("-");
    if (!take("0")) digits();
    value.kind = Kind::number, value.integer = true;
    if (take(".")) value.integer = false, digits();
    if (one_of("eE")) {
      value.integer = false, ++at_;
      if (one_of("+-")) ++at_;
      digits();
    }
#if defined(__cpp_lib_to_chars) && !defined(LIMBECK_NO_FROM_CHARS)
    const bool fits = std::from_chars(start, at_, value.number).ec == std::errc();
#else
    std::istringstream stream(std::string(start, at_));
    stream.imbue(std::locale::classic());
    const bool fits = static_cast<bool>(stream >> value.number);
#endif
    if (fits) return;
    const bool tiny = exponent(start) < 0;
    if (!tiny && !options_.python) fail("a JSON number beyond the range of double");
    value.number = tiny ? 0 : std::numeric_limits<double>::infinity();
    if (*start == '-') value.number = -value.number;
  }

  // Decimal exponent of the first digit that is not zero: its sign distinguishes overflow from underflow.
  long long exponent(const char *start) const {
    constexpr long long most = 1'000'000'000'000'000;  // more than any file has digits
    long long before = 0, zeros = 0, written = 0;
    bool point = false, leading = true;
    const char *p = start + (*start == '-');
    for (; p < at_ && *p != 'e' && *p != 'E'; ++p) {
      if (*p == '.') {
        point = true;
        continue;
      }
      if (leading && *p == '0')
        zeros += point;
      else
        leading = false, before += !point;
    }
    const bool negative = p + 1 < at_ && p[1] == '-';
    for (; p < at_; ++p)
      if (*p >= '0' && *p <= '9') written = std::min(most, 10 * written + (*p - '0'));
    return (before > 0 ? before - 1 : -1 - zeros) + (negative ? -written : written);
  }

  int hex4() {
    if (end_ - at_ < 4) fail("a JSON escape \\u without four hexadecimal digits");
    int code = 0;
    const auto [stop, bad] = std::from_chars(at_, at_ + 4, code, 16);
    if (bad != std::errc() || stop != at_ + 4 || *at_ == '-')
      fail("a JSON escape \\u without four hexadecimal digits");
    at_ = stop;
    return code;
  }

  int escaped_code() {
    const int high = hex4();
    if (high < 0xD800 || high > 0xDFFF) return high;
    const char *after = at_;
    if (high <= 0xDBFF && take("\\u")) {
      const int low = hex4();
      if (low >= 0xDC00 && low <= 0xDFFF) return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
    }
    at_ = after;
    if (!options_.python) fail("half of a surrogate pair in a JSON string");
    return high;
  }

  static void append(std::string &out, int code) {
    const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
    if (code < 0x80) return out.push_back(static_cast<char>(code));
    if (code < 0x800) return out += static_cast<char>(0xC0 | (code >> 6)), tail(0);
    if (code < 0x10000) return out += static_cast<char>(0xE0 | (code >> 12)), tail(6), tail(0);
    out += static_cast<char>(0xF0 | (code >> 18)), tail(12), tail(6), tail(0);
  }

  char escape() {
    constexpr std::string_view from = "\"\\/bfnrt", to = "\"\\/\b\f\n\r\t";
    if (!one_of(from)) fail("an unknown escape in a JSON string");
    return to[from.find(*at_++)];
  }

  std::string string() {
    std::string out;
    for (++at_;;) {
      const char *start = at_;
      while (at_ < end_ && *at_ != '"' && *at_ != '\\') {
        const int length = utf8_length(at_, end_);
        if (length == 0) fail("a JSON string that is not UTF-8");
        if (static_cast<unsigned char>(*at_) < 0x20) fail("a control character in a JSON string");
        at_ += length;
      }
      out.append(start, at_);
      if (take("\"")) return out;
      if (!take("\\")) fail("a JSON string without end");
      if (take("u"))
        append(out, escaped_code());
      else
        out += escape();
    }
  }

  const char *begin_, *at_, *end_;
  Options options_;
  std::size_t count_ = 0;
};

}  // namespace

Value parse(std::string_view text, Options options) { return Reader(text, options).document(); }

}  // namespace limbeck::json
