#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>

#include "check.hpp"
#include "draft.hpp"
#include "limbeck/student_file.hpp"

using namespace limbeck;
using namespace limbeck::test;

static StudentFile parse(const std::string &file) {
  return parse_student(reinterpret_cast<const unsigned char *>(file.data()), file.size(), "s");
}

static std::string refusal(const std::string &file) { return THROWN(FileError, parse(file)); }

// Why the file is no student, without the parts that stand in each such line.
static std::string reason(const std::string &file) {
  const std::string line = refusal(file), head = "s: this is no student file; got ",
                    tail =
                        "; wanted a .safetensors file written by Limbeck; remedy: limbeck convert reads "
                        "older .pt files";
  if (line.size() < head.size() + tail.size() || line.compare(0, head.size(), head) != 0 ||
      line.compare(line.size() - tail.size(), tail.size(), tail) != 0)
    return "another line: " + line;
  const std::string reason = line.substr(head.size(), line.size() - head.size() - tail.size());
  const std::size_t place = reason.find(" at byte ");  // test_json.cpp holds the places
  return place == std::string::npos ? reason : reason.substr(0, place) + ")";
}

TEST(student_layout) {
  for (const char *dtype : {"F32", "F64"})
    for (const int interactions : {1, 2, 3}) {
      const StudentFile s = parse(small_draft(interactions, dtype).file());
      const ParameterLayout layout(s.hp);
      CHECK_EQUAL(s.weights.size(), layout.total);
      // the k-th tensor starts at 10 k: see small_draft
      CHECK_EQUAL(s.weights[layout.embedding + 5], 5.0 / 8);
      for (int l = 0; l < interactions; ++l) {
        const LayerOffsets &o = layout.layers[std::size_t(l)];
        std::size_t k = std::size_t(1 + 8 * l);
        for (const std::size_t at :
             {o.phi, o.phi_bias, o.filter, o.mix, o.gate, o.gate_bias, o.out, o.out_bias})
          CHECK_EQUAL(s.weights[at + 1], 10.0 * double(k++) + 1.0 / 8);
      }
      const double last = 10.0 * (1 + 8 * interactions);
      CHECK_EQUAL(s.weights[layout.read1 + 2], last + 2.0 / 8);
      CHECK_EQUAL(s.weights[layout.read1_bias], last + 10);
      CHECK_EQUAL(s.weights[layout.read2], last + 20);
      CHECK_EQUAL(s.weights[layout.read2_bias], last + 30);
      CHECK_EQUAL(s.dtype, dtype == std::string("F32") ? "float32" : "float64");
    }
}

TEST(student_card) {
  const Draft draft = small_draft(2, "F32");
  const StudentFile s = parse(draft.file());
  CHECK(s.elements == (std::vector<int>{1, 14}));
  CHECK(s.hp.features == 3 && s.hp.interactions == 2 && s.hp.radial == 2 && s.hp.gate_width == 2);
  CHECK(s.hp.readout_width == 2 && s.hp.elements == 2 && s.hp.cutoff == 5 && s.hp.norm_offset == 0.1);
  CHECK_EQUAL(s.hp.energy_scale, 0.5);
  CHECK(s.references == (std::vector<double>{-1, -5.25}));
  CHECK(s.zbl_radius == (std::vector<double>{0, 1.25, 1.25, 0}));
  CHECK(s.shortest_pair == (std::vector<double>{0.75, 1.5, 1.5, 0}));
  CHECK_EQUAL(s.card, draft.card);
}

TEST(student_in_any_order_and_with_defaults) {
  Draft draft = small_draft(1, "F64");
  std::swap(draft.tensors[0], draft.tensors[5]);
  std::swap(draft.tensors[2], draft.tensors[9]);
  CHECK(parse(draft.file()).weights == parse(small_draft(1, "F64").file()).weights);
  draft.tensors[3].dtype = "F32";
  CHECK(parse(draft.file()).weights == parse(small_draft(1, "F64").file()).weights);
  CHECK_EQUAL(parse(draft.file()).dtype, "float64");
  draft = draft.with_card("\"cutoff\": 5.0, ", "").with_card("\"norm_offset\": 0.1, ", "");
  draft = draft.with_card("\"energy_scale\": 0.5, ", "").with_card("\"name\": \"painn\", ", "");
  const StudentFile s = parse(draft.file());
  CHECK(s.hp.cutoff == 5 && s.hp.norm_offset == 0.1 && s.hp.energy_scale == 1);
  for (const char *data :
       {"3", "null", "[1]", "{}", "{\"shortest_pair_a\": 1}",
        "{\"shortest_pair_a\": {\"H-H\": \"x\", \"H\": 1, \"-\": 2, \"\": 3, \"H-Si\": NaN}}"}) {
    const std::size_t from = draft.card.find("{\"shortest_pair_a"), end = draft.card.find("null}", from) + 5;
    Draft changed = draft;
    changed.card.replace(from, end - from, data);
    CHECK(parse(changed.file()).shortest_pair == std::vector<double>(4, 0.0));
  }
}

struct Tampered {
  const char *from, *to, *reason;
};

TEST(tampered_cards) {
  const Draft draft = small_draft(2, "F32");
  const Tampered cases[] = {
      {"\"architecture\"", "\"structure\"", "its model card lacks a valid 'architecture'"},
      {"\"hidden_dim\": 3", "\"hidden_dim\": 0",
       "its model card lacks a valid hidden_dim (0, wanted integers from 1 to 4096)"},
      {"\"hidden_dim\": 3", "\"hidden_dim\": 4097",
       "its model card lacks a valid hidden_dim (4097, wanted integers from 1 to 4096)"},
      {"\"hidden_dim\": 3", "\"hidden_dim\": 3.0",
       "its model card lacks a valid hidden_dim (3, wanted integers from 1 to 4096)"},
      {"\"hidden_dim\": 3", "\"hidden_dim\": 1e300",
       "its model card lacks a valid hidden_dim (1e+300, wanted integers from 1 to 4096)"},
      {"\"hidden_dim\": 3", "\"hidden_dim\": 99999999999999999999999999",
       "its model card lacks a valid hidden_dim (1e+26, wanted integers from 1 to 4096)"},
      {"\"rbf\": 2, ", "", "its model card lacks a valid 'rbf'"},
      {"\"rbf\": 2", "\"rbf\": \"2\"",
       "its model card lacks a valid rbf ('2', wanted integers from 1 to 4096)"},
      {"\"rbf\": 2", "\"rbf\": true",
       "its model card lacks a valid rbf (true, wanted integers from 1 to 4096)"},
      {"\"rbf\": 2", "\"rbf\": -2", "its model card lacks a valid rbf (-2, wanted integers from 1 to 4096)"},
      {"\"rbf\": 2", "\"rbf\": 2, \"rbq\": 2",
       "its model card lacks a valid architecture (unknown field 'rbq')"},
      {"\"rbf\": 2", "\"rbf\": 2, \"rbf\": 2",
       "no Limbeck card in its metadata (the name 'rbf' twice in a JSON object)"},
      {"\"cutoff\": 5.0", "\"cutoff\": -5.0",
       "its model card lacks a valid cutoff (-5, wanted positive numbers)"},
      {"\"cutoff\": 5.0", "\"cutoff\": 1e999",
       "its model card lacks a valid cutoff (inf, wanted positive numbers)"},
      {"\"cutoff\": 5.0", "\"cutoff\": NaN",
       "its model card lacks a valid cutoff (nan, wanted positive numbers)"},
      {"\"norm_offset\": 0.1", "\"norm_offset\": 0",
       "its model card lacks a valid norm_offset (0, wanted positive numbers)"},
      {"\"energy_scale\": 0.5", "\"energy_scale\": null",
       "its model card lacks a valid energy_scale (null, wanted positive numbers)"},
      {"\"painn\"", "\"mace\"", "its model card lacks a valid name ('mace', wanted 'painn')"},
      {"[1, 14]", "[14, 1]", "its model card lacks a valid elements (1, wanted ascending atomic numbers)"},
      {"[1, 14]", "[1, 1]", "its model card lacks a valid elements (1, wanted ascending atomic numbers)"},
      {"[1, 14]", "[1, 119]", "its model card lacks a valid elements (119, wanted ascending atomic numbers)"},
      {"[1, 14]", "[0, 14]", "its model card lacks a valid elements (0, wanted ascending atomic numbers)"},
      {"[1, 14]", "[]", "its model card lacks a valid elements (none, wanted ascending atomic numbers)"},
      {"[1, 14]", "14", "its model card lacks a valid 'elements'"},
      {"[1, 14]", "[1, 15]", "no energy reference for Z = [15]"},
      {"\"14\": -5.25", "\"15\": -5.25", "no energy reference for Z = [14]"},
      {"\"14\": -5.25", "\"14\": NaN", "references or ZBL radii that are not finite"},
      {"\"14\": -5.25", "\"14\": -1e999", "references or ZBL radii that are not finite"},
      {"\"14\": -5.25", "\"14\": \"x\"", "its model card lacks a valid 'energy_references_ev' ('x')"},
      {"\"14\": -5.25", "\"14\": -5.25, \"-3\": 0",
       "references or ZBL radii of atomic numbers beyond 1 to 118"},
      {"\"14\": -5.25", "\"14\": -5.25, \"99999999999999999999\": 0",
       "references or ZBL radii of atomic numbers beyond 1 to 118"},
      {"\"14\": -5.25", "\"14\": -5.25, \"Si\": 0",
       "its model card lacks a valid 'energy_references_ev' ('Si')"},
      {"\"14\": -5.25", "\"14\": -5.25, \"1__4\": 0",
       "its model card lacks a valid 'energy_references_ev' ('1__4')"},
      {"\"14\": -5.25", "\"14\": -5.25, \"\": 0", "its model card lacks a valid 'energy_references_ev' ('')"},
      {"{\"1\": -1.0, \"14\": -5.25}", "[1, 2]", "its model card lacks a valid 'energy_references_ev'"},
      {"\"1-14\": 1.25", "\"1-14\": Infinity", "references or ZBL radii that are not finite"},
      {"\"1-14\"", "\"1-500\"", "references or ZBL radii of atomic numbers beyond 1 to 118"},
      {"\"1-14\"", "\"1\"", "its model card lacks a valid 'zbl_radius_a' ('1')"},
      {"\"1-14\"", "\"1--14\"", "its model card lacks a valid 'zbl_radius_a' ('1--14')"},
      {"\"1-14\"", "\"-\"", "its model card lacks a valid 'zbl_radius_a' ('')"},
      {"{\"1-14\": 1.25}", "null", "its model card lacks a valid 'zbl_radius_a'"},
      {"\"preset\"", "preset", "no Limbeck card in its metadata (no name of a JSON member)"},
  };
  for (const Tampered &one : cases) CHECK_EQUAL(reason(draft.with_card(one.from, one.to).file()), one.reason);
  // what Python's int() reads as 14 and as a pair
  for (const char *z : {" 14", "+14", "014", "1_4", "14\\n"})
    CHECK_EQUAL(refusal(draft.with_card("\"14\"", std::string("\"") + z + "\"").file()), "nothing thrown");
  CHECK(parse(draft.with_card("1-14", "14-1").file()).zbl_radius[1] == 1.25);
  CHECK(parse(draft.with_card("1-14", "1-92").file()).zbl_radius == std::vector<double>(4, 0.0));
}

TEST(card_versions_and_nesting) {
  const Draft draft = small_draft(1, "F32");
  const std::string version = "\"format_version\": 1";
  const std::pair<const char *, const char *> versions[] = {
      {"2", "2"}, {"\"1\"", "'1'"}, {"true", "true"}, {"1.5", "1.5"}, {"[1]", "an array"}, {"null", "null"}};
  for (const auto &[text, got] : versions)
    CHECK_EQUAL(refusal(draft.with_card(version, "\"format_version\": " + std::string(text)).file()),
                std::string("s: unknown student file format; got ") + got +
                    "; wanted format 1; remedy: upgrade Limbeck");
  CHECK_EQUAL(refusal(draft.with_card(version + ", ", "").file()),
              "s: unknown student file format; wanted format 1; remedy: upgrade Limbeck");
  Draft other = draft;
  other.card = "[1]";
  CHECK_EQUAL(reason(other.file()), "its card is no JSON object");
  other.card = draft.card + " {}";
  CHECK_EQUAL(reason(other.file()), "no Limbeck card in its metadata (text after the end of the JSON value)");
  const std::string deep(5'000'000, '[');
  CHECK_EQUAL(reason(draft.with_card("\"small\"", deep).file()),
              "no Limbeck card in its metadata (JSON nested deeper than 127)");
  CHECK_EQUAL(reason(draft.with_header("{\"__meta", "{\"x\":" + deep + ",\"__meta")),
              "no Limbeck card in its metadata (JSON nested deeper than 127)");
}

TEST(tampered_headers) {
  const Draft draft = small_draft(1, "F32");
  const Tampered cases[] = {
      {"__metadata__", "__metadata_", "no Limbeck card in its metadata"},
      {"{\"limbeck\":", "{\"other\":", "no Limbeck card in its metadata"},
      {"{\"limbeck\":", "{\"x\":1,\"limbeck\":", "damaged or truncated (metadata 'x' is no text)"},
      {"[0,24]", "[0,24.0]", "damaged or truncated (the offsets of 'embedding')"},
      {"[0,24]", "[-0,24]", "damaged or truncated (the offsets of 'embedding')"},
      {"[0,24]", "[0,24,24]", "damaged or truncated (the offsets of 'embedding')"},
      {"[0,24]", "[0,18446744073709551616]", "damaged or truncated (the offsets of 'embedding')"},
      {"[0,24]", "[0,9007199254740991]",
       "damaged or truncated (the offsets of 'embedding': 0 to 9007199254740991 after 0 of 436 bytes)"},
      {"[0,24]", "[24,0]", "damaged or truncated (the offsets of 'embedding': 24 to 0 after 0 of 436 bytes)"},
      {"[0,24]", "[0,20]", "damaged or truncated (the offsets of 'embedding' span 20 bytes, its shape 24)"},
      {"[24,96]", "[20,92]",
       "damaged or truncated (the offsets of 'interactions.0.phi.weight': 20 to 92 after 24 of 436 bytes)"},
      {"[24,96]", "[28,100]",
       "damaged or truncated (the offsets of 'interactions.0.phi.weight': 28 to 100 after 24 of 436 bytes)"},
      {"[2,3]", "[2,-3]", "damaged or truncated (the shape of 'embedding')"},
      {"[2,3]", "[2,[3]]", "damaged or truncated (the shape of 'embedding')"},
      {"[2,3]", "[4294967296,4294967296]",
       "damaged or truncated (the shape of 'embedding' is beyond any file)"},
      {"[2,3]", "[2,4]", "damaged or truncated (the offsets of 'embedding' span 24 bytes, its shape 32)"},
      {"\"F32\"", "32", "damaged or truncated (the type of 'embedding')"},
      {"\"dtype\"", "\"dtypo\"", "damaged or truncated (the type of 'embedding')"},
      {"\"shape\"", "\"shapo\"", "damaged or truncated (the shape of 'embedding')"},
      {"\"data_offsets\"", "\"offsets\"", "damaged or truncated (the offsets of 'embedding')"},
      {"\"dtype\":", "\"dtype\":\"F32\",\"dtype\":",
       "no Limbeck card in its metadata (the name 'dtype' twice in a JSON object)"},
      {"\"embedding\":", "\"readout.1.bias\":",
       "no Limbeck card in its metadata (the name 'readout.1.bias' twice in a JSON object)"},
      {"\"embedding\"", "\"embed\xFF\"", "no Limbeck card in its metadata (a JSON string that is not UTF-8)"},
  };
  for (const Tampered &one : cases) CHECK_EQUAL(reason(draft.with_header(one.from, one.to)), one.reason);
  CHECK_EQUAL(refusal(draft.with_header("\"embedding\"", "\"embeddinh\"")),
              "s: the weights do not fit the architecture; got names such as ['embedding', 'embeddinh']");
  CHECK_EQUAL(refusal(draft.with_header("\"embedding\"", "\"a\\nb\"")),
              "s: the weights do not fit the architecture; got names such as ['a b', 'embedding']");
  CHECK_EQUAL(refusal(draft.with_header("[2,3]", "[3,2]")),
              "s: weight 'embedding' has the wrong shape; got (3, 2); wanted (2, 3)");
  CHECK_EQUAL(refusal(draft.with_header("[2,3]", "[6]")),
              "s: weight 'embedding' has the wrong shape; got (6,); wanted (2, 3)");
  CHECK_EQUAL(refusal(draft.with_header("\"F32\"", "\"I32\"")),
              "s: weight 'embedding' has the wrong type; got 'I32'; wanted 'F32' or 'F64'");
  CHECK_EQUAL(refusal(draft.with_header("{\"dtype\"", "{\"more\":[{}],\"dtype\"")), "nothing thrown");
  CHECK_EQUAL(refusal(draft.with_header("[0,24]}",
                                        "[0,24]},\"none\":{\"dtype\":\"F32\",\"shape\":[0,9007199254740991,"
                                        "9007199254740991],\"data_offsets\":[24,24]}")),
              "s: the weights do not fit the architecture; got names such as ['none']");
}

TEST(header_lengths_and_truncations) {
  const std::string whole = small_draft(2, "F32").file(), length = "its header length does not fit the file";
  for (std::size_t n = 0; n < whole.size(); ++n) CHECK(refusal(whole.substr(0, n)) != "nothing thrown");
  CHECK_EQUAL(reason(whole.substr(0, whole.size() - 1)).substr(0, 22), "damaged or truncated (");
  CHECK_EQUAL(reason(whole + '\0'), "damaged or truncated (1 bytes of data without a name)");
  CHECK_EQUAL(reason(""), length);
  CHECK_EQUAL(reason("1234567"), length);
  for (const unsigned long long n : {0ull, 1ull, 1ull << 63, ~0ull, ~0ull - 7, 100'000'001ull,
                                     static_cast<unsigned long long>(whole.size()) - 7}) {
    std::string changed = whole;
    for (int k = 0; k < 8; ++k) changed[std::size_t(k)] = static_cast<char>(n >> (8 * k) & 0xFF);
    CHECK_EQUAL(reason(changed), length);
  }
  CHECK_EQUAL(reason(Draft::file_of("{}", "")), "no Limbeck card in its metadata");
  CHECK_EQUAL(reason(Draft::file_of("[]", "")), "no Limbeck card in its metadata");
}

TEST(weights_that_are_not_finite) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const char *dtype : {"F32", "F64"})
    for (const double bad : {infinity, -infinity, std::nan("")}) {
      Draft draft = small_draft(1, dtype);
      draft.tensors[6].values[1] = bad;
      CHECK_EQUAL(refusal(draft.file()),
                  "s: weight 'interactions.0.gate.bias' is not finite; remedy: train the student again");
    }
  Draft draft = small_draft(1, "F64");
  draft.tensors[0].values = {1e308, -1e308, 5e-324, -0.0, 1e-300, 0};  // large and small are finite
  CHECK(parse(draft.file()).weights[0] == 1e308 && parse(draft.file()).weights[2] == 5e-324);
}

TEST(released_students) {
  const struct {
    const char *name;
    int features;
    std::vector<int> elements;
  } released[] = {{"3bpa-tiny", 64, {1, 6, 7, 8}},
                  {"3bpa-ultra-tiny", 32, {1, 6, 7, 8}},
                  {"silicon-tiny", 64, {14}},
                  {"silicon-ultra-tiny", 32, {14}}};
  for (const auto &one : released) {
    const std::string path = arguments().students + "/" + one.name + ".safetensors";
    std::ifstream stream(path, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(stream)), {});
    const StudentFile s = read_student(path);
    CHECK_EQUAL(s.hp.features, one.features);
    CHECK(s.elements == one.elements);
    CHECK_EQUAL(s.dtype, "float32");
    CHECK_EQUAL(s.weights.size(), ParameterLayout(s.hp).total);
    const std::size_t n = s.elements.size();
    CHECK(s.references.size() == n && s.zbl_radius.size() == n * n && s.shortest_pair.size() == n * n);
    for (std::size_t a = 0; a < n; ++a)
      for (std::size_t b = 0; b < n; ++b) {
        CHECK(s.zbl_radius[a * n + b] > 0.3 && s.zbl_radius[a * n + b] == s.zbl_radius[b * n + a]);
        // one oxygen a molecule: never seen as a pair
        const bool seen = !(s.elements[a] == 8 && s.elements[b] == 8);
        CHECK((s.shortest_pair[a * n + b] > 0.3) == seen);
        CHECK(s.shortest_pair[a * n + b] == s.shortest_pair[b * n + a]);
      }
    for (std::size_t k = 1; k < 100; ++k)
      CHECK(refusal(bytes.substr(0, bytes.size() * k / 100)) != "nothing thrown");
  }
}

TEST(files_that_cannot_be_read) {
  CHECK_EQUAL(THROWN(FileError, read_student("no/such.safetensors")),
              "no/such.safetensors: no such student file; remedy: limbeck students lists the bundled ones");
  CHECK_EQUAL(THROWN(FileError, read_student(arguments().students)),
              arguments().students + ": cannot read the student file; got Is a directory");
  const std::string zero = arguments().students + "/silicon-tiny.safetensors" + std::string(1, '\0');
  CHECK(THROWN(FileError, read_student(zero)).find(" : no such student file") != std::string::npos);
  CHECK_EQUAL(THROWN(FileError, read_student("a\nb\xFF")).substr(0, 26), "a b?: no such student file");
}
