// SPDX-License-Identifier: GPL-2.0-or-later
// `pair_style limbeck`: a Limbeck student in LAMMPS, by the native core, exact over MPI.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "limbeck/engine.hpp"
#include "limbeck/student_file.hpp"
#include "pair.h"

namespace LAMMPS_NS {

class PairLimbeck : public Pair {
 public:
  explicit PairLimbeck(class LAMMPS *);
  ~PairLimbeck() override;

  void settings(int, char **) override;
  void coeff(int, char **) override;
  void init_style() override;
  double init_one(int, int) override;
  void compute(int, int) override;
  void finish() override;
  double memory_usage() override;

  int pack_forward_comm(int, int *, double *, int, int *) override;
  void unpack_forward_comm(int, int, double *) override;
  int pack_reverse_comm(int, int, double *) override;
  void unpack_reverse_comm(int, int *, double *) override;

 private:
  enum Kind { kDistance, kDensity, kTemperature, kKinds };

  // The core's rows between ranks, by LAMMPS's communication with ghosts.
  struct Rows final : limbeck::Exchange {
    PairLimbeck *pair;
    char *first = nullptr;
    int bytes = 0, width = 0, stride = 0;
    explicit Rows(PairLimbeck *owner) : pair(owner) {}
    void forward(void *rows, int bytes, int width, int stride) override;
    void reverse(void *rows, int bytes, int width, int stride) override;
    int size() const { return (width * bytes + 7) / 8; }  // in doubles
    char *at(int k) const { return first + std::size_t(k) * stride * bytes; }
  };

  void allocate();
  void refuse_dropped_pairs();
  int widest() const;
  bool is_trial_group(int number) const;
  bool types_changed() const;
  void find_owners();
  void map_atoms();
  void set_pairs();
  void gather_positions();
  void evaluate();
  void add_results();
  void add_centroid_virial();
  void check_distances();
  void check_state();
  void outside(Kind, const std::string &text);

  // settings
  bool strict_ = false;
  limbeck::Scalar scalar_ = limbeck::Scalar::f32;
  int threads_ = 1;

  // student
  std::string name_;
  limbeck::StudentFile student_;
  std::vector<double> closest_;  // (Z, Z) Angstrom, allowed
  std::unique_ptr<limbeck::Engine> engine_;
  std::unique_ptr<limbeck::System> system_;
  std::unique_ptr<limbeck::System> dual_;  // for centroid virials, from the first request on
  bool dual_listed_ = false;
  double to_energy_ = 1;  // eV in the units of the input

  // The core's rows: the rank's own atoms, then copies of other ranks' atoms. A ghost that is an image of an
  // own atom has that atom's row, so a pair is evaluated once.
  int owned_ = 0;
  std::vector<int> row_of_;           // of each local atom and ghost, -1 where the student does not see it
  std::vector<int> atoms_, species_;  // (rows,)
  std::vector<double> owners_;        // (nlocal + nghost, 2): rank and index there
  std::vector<int> first_, second_, shift_;
  std::vector<double> positions_;
  double cell_[9] = {};
  limbeck::NeighbourList pairs_;
  limbeck::Results results_;
  std::vector<double> centroid_;

  // communication in progress: of owners, or of rows of the core
  bool sending_owners_ = false;
  Rows rows_{this};

  // evaluations outside the training domain
  long long counts_[kKinds] = {}, evaluations_ = 0;
  bool warned_[kKinds] = {};
};

}  // namespace LAMMPS_NS
