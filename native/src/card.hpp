// The model card of a student file: architecture and baseline.
#pragma once

#include <string>

#include "limbeck/json.hpp"
#include "limbeck/student_file.hpp"

namespace limbeck {

// The card's JSON object, of a format that this reader knows.
json::Value read_card(const std::string &text, const std::string &where);

// Each fills its part of the student; the first one goes first, for it sets the elements.
void read_architecture(const json::Value &card, const std::string &where, StudentFile &student);
void read_baseline(const json::Value &card, const std::string &where, StudentFile &student);
void read_domain(const json::Value &card, StudentFile &student);

}  // namespace limbeck
