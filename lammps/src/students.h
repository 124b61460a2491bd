// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>

namespace limbeck {

// A file's path as given; or, of a bundled student's name, its file: in $LIMBECK_STUDENTS, in the limbeck
// package next to this plugin, or where it was built. Throws FileError.
std::string find_student(const std::string &name);

}  // namespace limbeck
