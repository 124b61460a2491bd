// SPDX-License-Identifier: GPL-2.0-or-later
#include "pair_limbeck.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "atom.h"
#include "comm.h"
#include "compute.h"
#include "domain.h"
#include "error.h"
#include "fmt/format.h"
#include "force.h"
#include "group.h"
#include "memory.h"
#include "modify.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "students.h"
#include "update.h"
#include "utils.h"

namespace LAMMPS_NS {

namespace {

// PairHybrid copies the sizes of messages before the student is read: those of `original` with centroid
// virials.
constexpr int kWidest = 12 * 128;
constexpr double kSkin = 0.5;             // Angstrom
constexpr double kDistanceMargin = 1e-3;  // Angstrom; these margins are those of limbeck.runtime.guard
constexpr double kNoPairBelow = 6.0;      // Angstrom: a pair that the card lacks was never closer
constexpr double kDensityMargin = 0.05, kTemperatureMargin = 0.10, kTemperatureDeviations = 5.0;
constexpr double kGramPerCm3 = 1.66053906660;  // amu/A^3
const char *const kNames[] = {"distance", "density", "temperature"};

// Two zero bits behind each of the lowest 21 bits.
long long spread(long long x) {
  x = (x | x << 32) & 0x1f00000000ffff;
  x = (x | x << 16) & 0x1f0000ff0000ff;
  x = (x | x << 8) & 0x100f00f00f00f00f;
  x = (x | x << 4) & 0x10c30c30c30c30c3;
  return (x | x << 2) & 0x1249249249249249;
}

std::string list_of(const std::vector<int> &elements) {
  std::string text;
  for (int z : elements) text += (text.empty() ? "" : " ") + std::string(limbeck::symbol_of(z));
  return text;
}

}  // namespace

PairLimbeck::PairLimbeck(LAMMPS *lmp) : Pair(lmp) {
  manybody_flag = 1, one_coeff = 1, single_enable = 0, restartinfo = 0, respa_enable = 0;
  no_virial_fdotr_compute = 1;  // images are mapped to their owners, so forces times positions is no virial
  centroidstressflag = CENTROID_AVAIL;
  unit_convert_flag = utils::get_supported_conversions(utils::ENERGY);
  comm_forward = comm_reverse = kWidest;
}

PairLimbeck::~PairLimbeck() {
  if (copymode || !allocated) return;
  memory->destroy(setflag);
  memory->destroy(cutsq);
  delete[] map;
  map = nullptr;
}

void PairLimbeck::settings(int narg, char **arg) {
  for (int k = 0; k < narg; ++k) {
    const std::string key = arg[k];
    const bool more = k + 1 < narg;
    if (key == "strict") {
      strict_ = true;
    } else if (key == "precision" && more && !std::strcmp(arg[k + 1], "single")) {
      scalar_ = limbeck::Scalar::f32, ++k;
    } else if (key == "precision" && more && !std::strcmp(arg[k + 1], "double")) {
      scalar_ = limbeck::Scalar::f64, ++k;
    } else if (key == "threads" && more) {
      threads_ = utils::inumeric(FLERR, arg[++k], false, lmp);
      if (threads_ < 1)
        error->all(FLERR, "pair_style limbeck: invalid threads {}; wanted 1 or more", threads_);
    } else {
      error->all(
          FLERR,
          "pair_style limbeck: unknown setting '{}'; wanted precision single|double, threads N, strict", key);
    }
  }
}

void PairLimbeck::allocate() {
  allocated = 1;
  const int n = atom->ntypes + 1;
  memory->create(setflag, n, n, "pair:setflag");
  memory->create(cutsq, n, n, "pair:cutsq");
  map = new int[n];
}

void PairLimbeck::coeff(int narg, char **arg) {
  if (!allocated) allocate();
  if (narg < 3 || std::strcmp(arg[0], "*") != 0 || std::strcmp(arg[1], "*") != 0)
    error->all(
        FLERR,
        "pair_coeff of pair_style limbeck: wanted `pair_coeff * * STUDENT` and an element for each type");
  name_ = arg[2];
  try {
    student_ = limbeck::read_student(limbeck::find_student(name_));
    engine_ = limbeck::make_engine(limbeck::model_of(student_), scalar_, limbeck::best_instruction_set());
  } catch (const std::exception &fault) {
    error->all(FLERR, "pair_coeff of pair_style limbeck: {}", fault.what());
  }
  const int types = atom->ntypes, Z = student_.hp.elements;
  const std::string known = list_of(student_.elements);
  if (narg != 3 + types)
    error->all(
        FLERR,
        "pair_coeff of pair_style limbeck: got {} elements for {} atom types; wanted one of {} for each",
        narg - 3, types, known);
  for (int t = 1; t <= types; ++t) {
    const std::string symbol = arg[2 + t];
    const auto place =
        std::find(student_.elements.begin(), student_.elements.end(), limbeck::atomic_number_of(symbol));
    map[t] = place == student_.elements.end() ? -1 : int(place - student_.elements.begin());
    if (map[t] < 0 && symbol != "NULL")
      error->all(
          FLERR,
          "pair_coeff of pair_style limbeck: {} does not know element '{}' of type {}; wanted one of {}{}",
          name_, symbol, t, known, ", or NULL under pair_style hybrid");
    if (map[t] < 0 && !utils::strmatch(force->pair_style, "^hybrid"))
      error->all(
          FLERR,
          "pair_coeff of pair_style limbeck: NULL for type {} is possible only under pair_style hybrid", t);
  }
  int mapped = 0;
  for (int a = 1; a <= types; ++a)
    for (int b = 1; b <= types; ++b) {
      setflag[a][b] = b >= a && map[a] >= 0 && map[b] >= 0;
      mapped += setflag[a][b];
    }
  if (!mapped) error->all(FLERR, "pair_coeff of pair_style limbeck: no type has an element");
  system_ = engine_->system(threads_);
  system_->set_exchange(comm->nprocs > 1 ? &rows_ : nullptr);
  dual_.reset();
  if (widest() > kWidest && utils::strmatch(force->pair_style, "^hybrid"))
    error->all(FLERR,
               "pair_coeff of pair_style limbeck: {} has {} features; under pair_style hybrid at most 128",
               name_, student_.hp.features);
  closest_.assign(student_.shortest_pair.size(), 0.0);
  const bool given = std::any_of(student_.shortest_pair.begin(), student_.shortest_pair.end(),
                                 [](double r) { return r > 0; });
  for (int k = 0; given && k < Z * Z; ++k)
    closest_[k] =
        (student_.shortest_pair[k] > 0 ? student_.shortest_pair[k] : kNoPairBelow) - kDistanceMargin;
  if (comm->me == 0)
    utils::logmesg(lmp, "limbeck: {}, elements {}, cutoff {:g} A, total charge {:g} e, {} precision\n", name_,
                   known, student_.hp.cutoff, student_.charge,
                   scalar_ == limbeck::Scalar::f32 ? "single" : "double");
}

// Doubles a row that ranks exchange: of dual numbers where a compute wants centroid virials.
int PairLimbeck::widest() const {
  if (comm->nprocs == 1) return 2;  // the owners of ghosts alone
  int bytes = scalar_ == limbeck::Scalar::f32 ? 4 : 8;
  for (const auto *compute : modify->get_compute_list())
    if (utils::strmatch(compute->style, "^centroid/stress/atom")) bytes = 16;
  return 6 * ((student_.hp.features + 15) / 16 * 16) * bytes / 8;
}

bool PairLimbeck::is_trial_group(int number) const {
  const std::string name = group->names[number];
  return name.rfind("Fix", 0) == 0 && name.find("exclusion_group") != std::string::npos;
}

void PairLimbeck::refuse_dropped_pairs() {
  // `neighbor->exclude` is set later; a grand canonical fix hides the atoms of its trial moves by a group
  bool dropped = neighbor->nex_type || neighbor->nex_mol;
  for (int k = 0; k < neighbor->nex_group; ++k) dropped |= !is_trial_group(neighbor->ex1_group[k]);
  if (dropped)
    error->all(
        FLERR,
        "pair_style limbeck: neigh_modify exclude drops pairs that the student needs; remedy: remove it");
  if (atom->molecular == Atom::ATOMIC) return;
  bool ones = true;
  for (int k = 1; k < 4; ++k) ones = ones && force->special_lj[k] == 1.0 && force->special_coul[k] == 1.0;
  int bonded = atom->molecular == Atom::TEMPLATE, anywhere = 0;
  for (int i = 0; atom->nspecial && i < atom->nlocal; ++i) bonded |= atom->nspecial[i][2] > 0;
  MPI_Allreduce(&bonded, &anywhere, 1, MPI_INT, MPI_MAX, world);
  if (anywhere && !ones)
    error->all(FLERR,
               "pair_style limbeck: special_bonds drops or scales pairs of bonded atoms; remedy: "
               "special_bonds lj/coul 1 1 1");
}

void PairLimbeck::init_style() {
  if (!engine_)
    error->all(FLERR, "pair_style limbeck: no student; remedy: pair_coeff * * STUDENT and elements");
  if (!force->newton_pair) error->all(FLERR, "pair_style limbeck: newton off for pairs; wanted newton on");
  if (!utils::strmatch(update->unit_style, "^metal$") && !utils::strmatch(update->unit_style, "^real$"))
    error->all(FLERR, "pair_style limbeck: units {}; wanted metal or real", update->unit_style);
  if (utils::strmatch(update->integrate_style, "^respa"))
    error->all(FLERR, "pair_style limbeck: run_style respa is not supported; wanted verlet");
  refuse_dropped_pairs();
  to_energy_ = utils::strmatch(update->unit_style, "^real$")
                   ? utils::get_conversion_factor(utils::ENERGY, utils::METAL2REAL)
                   : 1.0;
  comm_forward = comm_reverse = widest();
  neighbor->add_request(this, NeighConst::REQ_FULL);
  std::fill_n(counts_, int(kKinds), 0), std::fill_n(warned_, int(kKinds), false), evaluations_ = 0;
}

double PairLimbeck::init_one(int, int) { return student_.hp.cutoff; }

bool PairLimbeck::types_changed() const {
  if (int(row_of_.size()) != atom->nlocal + atom->nghost) return true;
  for (std::size_t k = 0; k < atoms_.size(); ++k)
    if (map[atom->type[atoms_[k]]] != species_[k]) return true;
  return false;
}

// Rank and index of the owner of each ghost, by the way that its position came.
void PairLimbeck::find_owners() {
  const int all = atom->nlocal + atom->nghost;
  owners_.assign(2 * std::size_t(all), -1.0);
  for (int i = 0; i < atom->nlocal; ++i)
    owners_[2 * std::size_t(i)] = comm->me, owners_[2 * std::size_t(i) + 1] = i;
  sending_owners_ = true;
  comm->forward_comm(this, 2);
  sending_owners_ = false;
}

// Rows of the core for atoms and ghosts, after LAMMPS made its list.
void PairLimbeck::map_atoms() {
  find_owners();
  const int nlocal = atom->nlocal, all = nlocal + atom->nghost;
  row_of_.assign(all, -1);
  atoms_.clear(), species_.clear();
  int hidden = 0;  // atoms that are not there in a trial move
  for (int k = 0; k < neighbor->nex_group; ++k)
    if (is_trial_group(neighbor->ex1_group[k])) hidden |= neighbor->ex1_bit[k];
  const auto visible = [&](int i) { return map[atom->type[i]] >= 0 && !(atom->mask[i] & hidden); };
  const auto take = [&](int i) {
    row_of_[i] = int(atoms_.size());
    atoms_.push_back(i), species_.push_back(map[atom->type[i]]);
  };
  std::vector<std::pair<long long, int>> own;
  for (int k = 0; k < list->inum; ++k)
    if (visible(list->ilist[k])) own.emplace_back(0, list->ilist[k]);
  if (comm->nprocs > 1) {  // Morton's order, in which the core itself puts atoms where there are no copies
    const double width = 0.5 * student_.hp.cutoff, *low = domain->boxlo;
    for (auto &[key, i] : own)
      for (int a = 0; a < 3; ++a)
        key |=
            spread(static_cast<long long>(std::clamp((atom->x[i][a] - low[a]) / width + 8.0, 0.0, 2097151.0)))
            << a;
    std::sort(own.begin(), own.end());
  }
  for (const auto &[key, i] : own) take(i);
  owned_ = int(atoms_.size());
  for (int j = nlocal; j < all; ++j) {
    if (!visible(j)) continue;
    if (int(owners_[2 * std::size_t(j)]) == comm->me)
      row_of_[j] = row_of_[int(owners_[2 * std::size_t(j) + 1])];
    else
      take(j);
  }
}

// The pairs within the cutoff and a skin of the core's own: LAMMPS's skin of 2 A would double their number.
void PairLimbeck::set_pairs() {
  double **x = atom->x;
  const double skin = std::min(neighbor->skin, kSkin), reach = student_.hp.cutoff + skin;
  first_.clear(), second_.clear(), shift_.clear();
  const double *inverse = domain->h_inv;
  for (int k = 0; k < list->inum; ++k) {
    const int i = list->ilist[k], a = row_of_[i];
    if (a < 0) continue;
    for (int p = 0; p < list->numneigh[i]; ++p) {
      const int j = list->firstneigh[i][p] & NEIGHMASK, b = row_of_[j];
      const double dx = x[j][0] - x[i][0], dy = x[j][1] - x[i][1], dz = x[j][2] - x[i][2];
      if (b < 0 || !(dx * dx + dy * dy + dz * dz < reach * reach)) continue;
      int n[3] = {0, 0, 0};
      if (j >= atom->nlocal && b < owned_) {  // an image: counted in cell vectors
        const double *from = x[atoms_[b]], *to = x[j];
        const double d[3] = {to[0] - from[0], to[1] - from[1], to[2] - from[2]};
        n[0] = int(std::lround(inverse[0] * d[0] + inverse[5] * d[1] + inverse[4] * d[2]));
        n[1] = int(std::lround(inverse[1] * d[1] + inverse[3] * d[2]));
        n[2] = int(std::lround(inverse[2] * d[2]));
      }
      // a pair of own atoms is met from both sides and kept once
      const bool keep = b >= owned_ || a < b ||
                        (a == b && (n[0] > 0 || (n[0] == 0 && (n[1] > 0 || (n[1] == 0 && n[2] > 0)))));
      if (!keep) continue;
      first_.push_back(a), second_.push_back(b);
      shift_.insert(shift_.end(), n, n + 3);
    }
  }
  pairs_.owned = owned_, pairs_.total = int(atoms_.size());
  pairs_.species = species_.data(), pairs_.pairs = first_.size();
  pairs_.first = first_.data(), pairs_.second = second_.data(), pairs_.shift = shift_.data();
  pairs_.skin = skin, pairs_.positions = positions_.data(), pairs_.cell = cell_;
  pairs_.fully_periodic = domain->nonperiodic == 0;
  system_->set_list(pairs_);
  dual_listed_ = false;
}

void PairLimbeck::gather_positions() {
  positions_.resize(3 * atoms_.size());
  for (std::size_t k = 0; k < atoms_.size(); ++k) std::copy_n(atom->x[atoms_[k]], 3, &positions_[3 * k]);
  const double *h = domain->h;  // xx yy zz yz xz xy
  const double cell[9] = {h[0], 0, 0, h[5], h[1], 0, h[4], h[3], h[2]};
  std::copy_n(cell, 9, cell_);
}

void PairLimbeck::evaluate() {
  // Every rank decides alike, because finding owners is a collective step.
  int again = neighbor->ago == 0 || types_changed();
  if (neighbor->ago != 0 && comm->nprocs > 1) MPI_Allreduce(MPI_IN_PLACE, &again, 1, MPI_INT, MPI_MAX, world);
  if (again) map_atoms();
  gather_positions();
  for (std::size_t k = 0; k < positions_.size(); ++k)
    if (!std::isfinite(positions_[k]))
      error->one(FLERR, "pair_style limbeck: the position of atom {} is not finite",
                 atom->tag[atoms_[k / 3]]);
  if (again || !system_->covers(positions_.data(), cell_)) set_pairs();
  system_->evaluate(positions_.data(), cell_, results_);
}

void PairLimbeck::compute(int eflag, int vflag) {
  ev_init(eflag, vflag);
  results_.want_atom_virial = vflag_atom;
  try {
    evaluate();
    if (cvflag_atom) add_centroid_virial();
  } catch (const std::invalid_argument &fault) {
    error->one(FLERR, "pair_style limbeck: {}", fault.what());
  }
  ++evaluations_;
  add_results();
  check_distances();
  if (eflag_global) check_state();
}

void PairLimbeck::add_centroid_virial() {
  static const int place[9] = {0, 4, 8, 1, 2, 5, 3, 6, 7};  // xx yy zz xy xz yz yx zx zy in (3, 3)
  if (!dual_) {
    dual_ = limbeck::make_engine(limbeck::model_of(student_), limbeck::Scalar::dual,
                                 limbeck::best_instruction_set())
                ->system(threads_);
    dual_->set_exchange(comm->nprocs > 1 ? &rows_ : nullptr);
    dual_listed_ = false;
  }
  if (!dual_listed_) {
    pairs_.positions = positions_.data(),
    pairs_.skin = 0;  // whether it still holds is decided for the other one
    dual_->set_list(pairs_);
    dual_listed_ = true;
  }
  centroid_.resize(9 * atoms_.size());
  dual_->centroid_virial(positions_.data(), cell_, centroid_.data());
  for (std::size_t k = 0; k < atoms_.size(); ++k)
    for (int e = 0; e < 9; ++e) cvatom[atoms_[k]][e] += to_energy_ * centroid_[9 * k + place[e]];
}

void PairLimbeck::add_results() {
  static const int place[6] = {0, 4, 8, 1, 2, 5};  // xx yy zz xy xz yz in (3, 3)
  const int rows = int(atoms_.size());
  for (int k = 0; k < rows; ++k)
    for (int c = 0; c < 3; ++c) atom->f[atoms_[k]][c] += to_energy_ * results_.forces[3 * std::size_t(k) + c];
  if (eflag_global) eng_vdwl += to_energy_ * results_.energy;
  if (eflag_atom)
    for (int k = 0; k < owned_; ++k) eatom[atoms_[k]] += to_energy_ * results_.atom_energy[k];
  if (vflag_global)
    for (int e = 0; e < 6; ++e) virial[e] -= to_energy_ * results_.virial[place[e]];
  if (vflag_atom)
    for (int k = 0; k < rows; ++k)
      for (int e = 0; e < 6; ++e)
        vatom[atoms_[k]][e] -= to_energy_ * results_.atom_virial[9 * std::size_t(k) + place[e]];
}

void PairLimbeck::outside(Kind kind, const std::string &text) {
  ++counts_[kind];
  const std::string line = fmt::format("pair_style limbeck: {}: {}", name_, text);
  if (strict_) error->one(FLERR, line);
  if (!warned_[kind]) error->warning(FLERR, line + " (shown once; the end of the run shows the number)");
  warned_[kind] = true;
}

void PairLimbeck::check_distances() {
  const int Z = student_.hp.elements;
  for (int a = 0; a < Z; ++a)
    for (int b = a; b < Z; ++b) {
      const double r = results_.shortest[std::size_t(a) * Z + b], least = closest_[std::size_t(a) * Z + b];
      if (r < least)
        return outside(kDistance,
                       fmt::format("{}-{} {:.3f} A apart; in the training data at least {:.3f} A",
                                   limbeck::symbol_of(student_.elements[a]),
                                   limbeck::symbol_of(student_.elements[b]), r, least + kDistanceMargin));
    }
}

// Density and temperature, which need all ranks: in steps that compute the energy.
void PairLimbeck::check_state() {
  const double *density = student_.density_g_per_cm3, *kelvin = student_.temperature_k;
  double sums[3] = {0, 0, 0};  // mass, atoms, twice the kinetic energy
  for (int k = 0; k < owned_; ++k) {
    const int i = atoms_[k];
    const double m = atom->rmass ? atom->rmass[i] : atom->mass[atom->type[i]], *v = atom->v[i];
    sums[0] += m, sums[1] += 1, sums[2] += m * (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
  }
  MPI_Allreduce(MPI_IN_PLACE, sums, 3, MPI_DOUBLE, MPI_SUM, world);
  if (comm->me != 0 && !strict_) return;
  const double volume = domain->xprd * domain->yprd * domain->zprd;
  const double found = sums[0] * kGramPerCm3 / volume;
  const bool whole = sums[1] == double(atom->natoms) && domain->nonperiodic == 0;
  if (density[1] > 0 && whole &&
      (found < density[0] * (1 - kDensityMargin) || found > density[1] * (1 + kDensityMargin)))
    outside(kDensity, fmt::format("density {:.3f} g/cm^3; in the training data {:.3f} to {:.3f}", found,
                                  density[0], density[1]));
  if (kelvin[1] > 0 && sums[1] > 0) {
    const double freedom = 3 * sums[1], t = force->mvv2e * sums[2] / (freedom * force->boltz);
    const double limit =
        kelvin[1] * (1 + kTemperatureMargin + kTemperatureDeviations * std::sqrt(2 / freedom));
    if (t > limit)
      outside(kTemperature, fmt::format("kinetic temperature {:.0f} K; in the training data at most {:.0f} K",
                                        t, kelvin[1]));
  }
}

void PairLimbeck::finish() {
  long long most[kKinds];
  MPI_Allreduce(counts_, most, int(kKinds), MPI_LONG_LONG, MPI_MAX, world);
  if (comm->me != 0) return;
  for (int k = 0; k < int(kKinds); ++k)
    if (most[k])
      utils::logmesg(lmp, "limbeck: {} of {} evaluations outside the training domain: {}\n", most[k],
                     evaluations_, kNames[k]);
}

double PairLimbeck::memory_usage() {
  std::size_t bytes = system_ ? system_->bytes() : 0;
  bytes += (positions_.capacity() + owners_.capacity()) * sizeof(double);
  bytes += (first_.capacity() + second_.capacity() + shift_.capacity() + row_of_.capacity() +
            2 * atoms_.capacity()) *
           sizeof(int);
  return double(bytes);
}

void PairLimbeck::Rows::forward(void *rows, int value_bytes, int row_width, int row_stride) {
  first = static_cast<char *>(rows), bytes = value_bytes, width = row_width, stride = row_stride;
  pair->comm->forward_comm(pair, size());
}

void PairLimbeck::Rows::reverse(void *rows, int value_bytes, int row_width, int row_stride) {
  first = static_cast<char *>(rows), bytes = value_bytes, width = row_width, stride = row_stride;
  pair->comm->reverse_comm(pair, size());
}

int PairLimbeck::pack_forward_comm(int n, int *atoms, double *buffer, int, int *) {
  const int size = sending_owners_ ? 2 : rows_.size();
  for (int k = 0; k < n; ++k, buffer += size) {
    const int r = sending_owners_ ? -1 : row_of_[atoms[k]];
    if (sending_owners_)
      std::copy_n(&owners_[2 * std::size_t(atoms[k])], 2, buffer);
    else if (r >= 0)
      std::memcpy(buffer, rows_.at(r), std::size_t(rows_.width) * rows_.bytes);
    else
      std::fill_n(buffer, size, 0.0);
  }
  return n * size;
}

void PairLimbeck::unpack_forward_comm(int n, int first, double *buffer) {
  if (sending_owners_) {
    std::copy_n(buffer, 2 * std::size_t(n), &owners_[2 * std::size_t(first)]);
    return;
  }
  for (int k = 0; k < n; ++k, buffer += rows_.size())
    if (row_of_[first + k] >= owned_)
      std::memcpy(rows_.at(row_of_[first + k]), buffer, std::size_t(rows_.width) * rows_.bytes);
}

int PairLimbeck::pack_reverse_comm(int n, int first, double *buffer) {
  for (int k = 0; k < n; ++k, buffer += rows_.size()) {
    if (row_of_[first + k] >= owned_)
      std::memcpy(buffer, rows_.at(row_of_[first + k]), std::size_t(rows_.width) * rows_.bytes);
    else  // what was for an image is in its owner's row already
      std::fill_n(buffer, rows_.size(), 0.0);
  }
  return n * rows_.size();
}

void PairLimbeck::unpack_reverse_comm(int n, int *atoms, double *buffer) {
  const auto add = [](auto *to, const void *from, int count) {
    const auto *x = static_cast<const std::remove_pointer_t<decltype(to)> *>(from);
    for (int e = 0; e < count; ++e) to[e] += x[e];
  };
  for (int k = 0; k < n; ++k, buffer += rows_.size()) {
    const int r = row_of_[atoms[k]];
    if (r < 0) continue;
    if (rows_.bytes == 4)
      add(reinterpret_cast<float *>(rows_.at(r)), buffer, rows_.width);
    else  // a dual number is two doubles
      add(reinterpret_cast<double *>(rows_.at(r)), buffer, rows_.width * rows_.bytes / 8);
  }
}

}  // namespace LAMMPS_NS
