// The engine without Python: one structure on one process against the same structure spread over two that
// exchange features between layers, as a message-passing host (LAMMPS) does it.
#include <algorithm>
#include <array>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "check.hpp"
#include "limbeck/engine.hpp"
#include "limbeck/trainer.hpp"

namespace {

using namespace limbeck;
using Vec = std::array<double, 3>;

Model random_model(int interactions, unsigned seed) {
  Model model;
  model.hp = Hyperparameters{16, interactions, 6, 12, 8, 2, 4.0, 0.1, 0.7};
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  model.weights.resize(ParameterLayout(model.hp).total);
  for (double &w : model.weights) w = 0.15 * normal(engine);
  model.numbers = {8, 14};
  model.references = {-3.0, -5.0};
  model.zbl_radius = {1.2, 1.5, 1.5, 2.2};
  return model;
}

// Atoms at random, none too close, in a skewed periodic cell.
struct Crystal {
  double cell[9] = {11, 0, 0, 1.5, 10, 0, -0.7, 0.4, 12};
  std::vector<Vec> x;
  std::vector<int> species;
  Crystal(int n, unsigned seed) {
    std::mt19937 engine(seed);
    std::uniform_real_distribution<double> uniform;
    while (int(x.size()) < n) {
      const double s[3] = {uniform(engine), uniform(engine), uniform(engine)};
      Vec p{};
      for (int c = 0; c < 3; ++c) p[c] = s[0] * cell[c] + s[1] * cell[3 + c] + s[2] * cell[6 + c];
      bool apart = true;
      for (const Vec &q : x)
        for (int k = 0; k < 27; ++k) apart &= distance(q, image(p, k)) > 1.7;
      if (apart) x.push_back(p), species.push_back(int(engine() % 2));
    }
  }
  static void shift_of(int k, int *s) { s[0] = k % 3 - 1, s[1] = k / 3 % 3 - 1, s[2] = k / 9 - 1; }
  Vec image(const Vec &p, int k) const {
    int s[3];
    shift_of(k, s);
    Vec q{};
    for (int c = 0; c < 3; ++c) q[c] = p[c] + s[0] * cell[c] + s[1] * cell[3 + c] + s[2] * cell[6 + c];
    return q;
  }
  static double distance(const Vec &a, const Vec &b) {
    return std::sqrt((a[0] - b[0]) * (a[0] - b[0]) + (a[1] - b[1]) * (a[1] - b[1]) +
                     (a[2] - b[2]) * (a[2] - b[2]));
  }
};

struct Lists {
  int owned = 0;
  std::vector<int> species, first, second, shift;
  std::vector<double> positions;
  NeighbourList view(const double *cell) const {
    NeighbourList list;
    list.owned = owned, list.total = int(species.size()), list.species = species.data();
    list.pairs = first.size(), list.first = first.data(), list.second = second.data();
    list.shift = shift.empty() ? nullptr : shift.data();
    list.positions = positions.data(), list.cell = cell;
    return list;
  }
};

Lists whole(const Crystal &c, double reach) {
  Lists lists;
  lists.owned = int(c.x.size()), lists.species = c.species;
  for (const Vec &p : c.x) lists.positions.insert(lists.positions.end(), p.begin(), p.end());
  for (int i = 0; i < lists.owned; ++i)
    for (int j = i; j < lists.owned; ++j)
      for (int k = 0; k < 27; ++k) {
        if (i == j && k <= 13) continue;  // each image once, and not the atom itself
        if (Crystal::distance(c.x[i], c.image(c.x[j], k)) >= reach) continue;
        int s[3];
        Crystal::shift_of(k, s);
        lists.first.push_back(i), lists.second.push_back(j);
        lists.shift.insert(lists.shift.end(), s, s + 3);
      }
  return lists;
}

// One of two processes: atoms of one half and copies of all within reach of them.
struct Domain {
  Lists lists;
  std::vector<int> atoms;                   // owned row -> atom
  std::vector<std::pair<int, int>> copies;  // copy -> (process, its owned row)
};

std::array<Domain, 2> split(const Crystal &c, double reach) {
  std::array<Domain, 2> domains;
  std::vector<std::pair<int, int>> home(c.x.size());
  for (int a = 0; a < int(c.x.size()); ++a) {
    const int d = c.x[a][0] + 0.3 * c.x[a][1] < 6.5 ? 0 : 1;
    home[a] = {d, int(domains[d].atoms.size())};
    domains[d].atoms.push_back(a);
  }
  for (Domain &d : domains) {
    d.lists.owned = int(d.atoms.size());
    for (int a : d.atoms) {
      d.lists.species.push_back(c.species[a]);
      d.lists.positions.insert(d.lists.positions.end(), c.x[a].begin(), c.x[a].end());
    }
    std::map<std::pair<int, int>, int> row;  // (atom, image) -> row
    for (int i = 0; i < d.lists.owned; ++i)
      for (int b = 0; b < int(c.x.size()); ++b)
        for (int k = 0; k < 27; ++k) {
          const Vec q = c.image(c.x[b], k);
          const bool here = k == 13 && &domains[home[b].first] == &d;
          if (here ? home[b].second <= i : false) continue;
          if (Crystal::distance(c.x[d.atoms[i]], q) >= reach) continue;
          int j = home[b].second;
          if (!here) {
            const auto found = row.emplace(std::make_pair(b, k), int(d.lists.species.size()));
            j = found.first->second;
            if (found.second) {
              d.lists.species.push_back(c.species[b]);
              d.lists.positions.insert(d.lists.positions.end(), q.begin(), q.end());
              d.copies.push_back(home[b]);
            }
          }
          d.lists.first.push_back(i), d.lists.second.push_back(j);
        }
  }
  return domains;
}

// Two threads stand for two processes; every exchange waits for both.
class Meeting {
 public:
  void both(const std::function<void()> &last) {
    std::unique_lock<std::mutex> lock(mutex_);
    const int round = round_;
    if (++here_ == 2) {
      if (last) last();
      here_ = 0, ++round_;
      wake_.notify_all();
    } else {
      wake_.wait(lock, [&] { return round != round_; });
    }
  }
  struct Rows {
    char *at = nullptr;
    std::size_t stride = 0;
  };
  std::array<Rows, 2> rows;

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  int here_ = 0, round_ = 0;
};

class Wire final : public Exchange {
 public:
  Wire(std::array<Domain, 2> &domains, Meeting &meeting, int me)
      : domains_(domains), meeting_(meeting), me_(me) {}
  void forward(void *rows, int bytes, int width, int stride) override {
    meet(rows, bytes, stride, [&] {
      for (int d = 0; d < 2; ++d)
        each_copy(d, [&](char *owner, char *copy) { std::memcpy(copy, owner, std::size_t(bytes) * width); });
    });
  }
  void reverse(void *rows, int bytes, int width, int stride) override {
    meet(rows, bytes, stride, [&] {
      for (int d = 0; d < 2; ++d)
        each_copy(d, [&](char *owner, char *copy) {
          for (int f = 0; f < width; ++f) {
            if (bytes == 8)
              reinterpret_cast<double *>(owner)[f] += reinterpret_cast<double *>(copy)[f];
            else
              reinterpret_cast<float *>(owner)[f] += reinterpret_cast<float *>(copy)[f];
          }
        });
    });
  }

 private:
  void meet(void *rows, int bytes, int stride, const std::function<void()> &work) {
    meeting_.rows[me_] = {static_cast<char *>(rows), std::size_t(bytes) * stride};
    meeting_.both(work);
  }
  template <class Work>
  void each_copy(int d, Work work) {
    for (std::size_t k = 0; k < domains_[d].copies.size(); ++k) {
      const auto [process, row] = domains_[d].copies[k];
      work(meeting_.rows[process].at + meeting_.rows[process].stride * row,
           meeting_.rows[d].at + meeting_.rows[d].stride * (domains_[d].lists.owned + k));
    }
  }
  std::array<Domain, 2> &domains_;
  Meeting &meeting_;
  int me_;
};

double largest(const std::vector<double> &a) {
  double most = 0;
  for (double x : a) most = std::max(most, std::abs(x));
  return most;
}

void compare(Scalar scalar, int interactions, int threads, double tolerance) {
  const Model model = random_model(interactions, 5);
  const Crystal crystal(60, 7);
  const auto engine = make_engine(model, scalar, "portable");
  const Lists one = whole(crystal, model.hp.cutoff);
  auto alone = engine->system(threads);
  alone->set_list(one.view(crystal.cell));
  Results wanted;
  wanted.want_atom_virial = true;
  alone->evaluate(one.positions.data(), crystal.cell, wanted);
  CHECK(largest(wanted.forces) > 1e-3);

  auto domains = split(crystal, model.hp.cutoff);
  CHECK(!domains[0].atoms.empty() && !domains[1].atoms.empty());
  Meeting meeting;
  std::array<Results, 2> found;
  std::vector<std::thread> processes;
  for (int d = 0; d < 2; ++d)
    processes.emplace_back([&, d] {
      Wire wire(domains, meeting, d);
      auto system = engine->system(threads);
      system->set_exchange(&wire);
      system->set_list(domains[d].lists.view(crystal.cell));
      found[d].want_atom_virial = true;
      system->evaluate(domains[d].lists.positions.data(), crystal.cell, found[d]);
    });
  for (auto &p : processes) p.join();

  double energy = found[0].energy + found[1].energy, virial[9] = {};
  std::vector<double> forces(wanted.forces.size()), each(wanted.atom_virial.size()), atoms(crystal.x.size());
  for (int d = 0; d < 2; ++d) {
    for (int e = 0; e < 9; ++e) virial[e] += found[d].virial[e];
    for (int row = 0; row < int(domains[d].lists.species.size()); ++row) {
      const int owned = domains[d].lists.owned;
      const auto home = row < owned ? std::make_pair(d, row) : domains[d].copies[row - owned];
      const int atom = domains[home.first].atoms[home.second];
      for (int c = 0; c < 3; ++c) forces[3 * atom + c] += found[d].forces[3 * row + c];
      for (int e = 0; e < 9; ++e) each[9 * atom + e] += found[d].atom_virial[9 * row + e];
      if (row < owned) atoms[atom] = found[d].atom_energy[row];
    }
  }
  CHECK(std::abs(energy - wanted.energy) <= tolerance * std::abs(wanted.energy));
  const auto near = [&](const std::vector<double> &a, const std::vector<double> &b) {
    double most = 0;
    for (std::size_t k = 0; k < a.size(); ++k) most = std::max(most, std::abs(a[k] - b[k]));
    return most <= tolerance * std::max(1.0, largest(b));
  };
  CHECK(near(forces, wanted.forces));
  CHECK(near(atoms, wanted.atom_energy));
  CHECK(near(each, wanted.atom_virial));
  CHECK(near(std::vector<double>(virial, virial + 9), std::vector<double>(wanted.virial, wanted.virial + 9)));
}

}  // namespace

TEST(two_processes_that_exchange_give_what_one_gives) {
  for (int interactions : {1, 2, 3}) compare(Scalar::f64, interactions, 1, 1e-11);
}
TEST(two_processes_in_single_precision) { compare(Scalar::f32, 3, 1, 1e-5); }
TEST(two_processes_of_three_threads_each) { compare(Scalar::f64, 3, 3, 1e-11); }

TEST(dual_numbers_give_the_derivative_of_the_forces) {
  const Model model = random_model(2, 11);
  const Crystal crystal(20, 3);
  const Lists list = whole(crystal, model.hp.cutoff);
  const auto dual = make_engine(model, Scalar::dual, "portable")->system(1);
  const auto plain = make_engine(model, Scalar::f64, "portable")->system(1);
  dual->set_list(list.view(crystal.cell)), plain->set_list(list.view(crystal.cell));
  std::mt19937 engine(1);
  std::normal_distribution<double> normal;
  std::vector<double> v(list.positions.size()), product(v.size());
  for (double &x : v) x = normal(engine);
  dual->hessian_product(list.positions.data(), crystal.cell, v.data(), product.data());
  const double step = 1e-6;
  std::array<std::vector<double>, 2> forces;
  for (int side = 0; side < 2; ++side) {
    std::vector<double> moved = list.positions;
    for (std::size_t k = 0; k < v.size(); ++k) moved[k] += (side ? step : -step) * v[k];
    Results out;
    plain->evaluate(moved.data(), crystal.cell, out);
    forces[side] = out.forces;
  }
  double worst = 0;
  for (std::size_t k = 0; k < v.size(); ++k)
    worst = std::max(worst, std::abs(product[k] + (forces[1][k] - forces[0][k]) / (2 * step)));
  CHECK(worst < 1e-6 * std::max(1.0, largest(product)));
}

TEST(no_atoms_and_one_atom) {
  const Model model = random_model(2, 2);
  const double cell[9] = {};
  const auto engine = make_engine(model, Scalar::f32, "portable");
  for (int n : {0, 1}) {
    Lists list;
    list.owned = n, list.species.assign(n, 1), list.positions.assign(3 * n, 0.5);
    auto system = engine->system(4);
    system->set_list(list.view(cell));
    Results out;
    system->evaluate(list.positions.data(), cell, out);
    CHECK_EQUAL(int(out.forces.size()), 3 * n);
    CHECK(std::isfinite(out.energy) && largest(out.forces) == 0);
  }
}

TEST(the_trainer_runs_under_the_sanitizers_too) {
  const Model model = random_model(3, 4);
  const Crystal crystal(12, 9);
  const Lists list = whole(crystal, model.hp.cutoff);
  auto set = std::make_shared<TrainingSet>();
  set->species = list.species, set->atom_offsets = {0, list.owned}, set->first = list.first,
  set->second = list.second;
  set->pair_offsets = {0, static_cast<long long>(list.first.size())};
  for (std::size_t p = 0; p < list.first.size(); ++p)
    for (int c = 0; c < 3; ++c) {
      const int *s = &list.shift[3 * p];
      set->vectors.push_back(crystal.x[list.second[p]][c] - crystal.x[list.first[p]][c] +
                             s[0] * crystal.cell[c] + s[1] * crystal.cell[3 + c] +
                             s[2] * crystal.cell[6 + c]);
    }
  auto trainer = make_trainer<double>(model.hp, 1, "portable");
  trainer->set_structures(set);
  trainer->set_weights(model.weights.data());
  double energy = 0, virial[9];
  std::vector<double> forces(3 * list.owned), atoms(list.owned), gradient(model.weights.size());
  trainer->evaluate({0}, &energy, forces.data(), virial, atoms.data());
  const double one = 1, none[9] = {};
  const std::vector<double> pull(forces.size(), 0.1);
  trainer->gradient(&one, pull.data(), none, gradient.data());
  CHECK(largest(gradient) > 0);
  // the network alone: the engine adds references and repulsion
  Model bare = model;
  bare.references = {0, 0}, bare.zbl_radius = {0, 0, 0, 0};
  auto system = make_engine(bare, Scalar::f64, "portable")->system(1);
  system->set_list(list.view(crystal.cell));
  Results out;
  system->evaluate(list.positions.data(), crystal.cell, out);
  CHECK(std::abs(out.energy - energy) < 1e-11 * std::max(1.0, std::abs(energy)));
}
