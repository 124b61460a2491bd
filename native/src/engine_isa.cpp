// The inference engine, compiled once for each instruction set; LIMBECK_ISA names the namespace.
#include "limbeck/engine.hpp"
#include "limbeck/system.hpp"

namespace LIMBECK_ISA {

using limbeck::Engine;
using limbeck::Scalar;
using limbeck::System;

template <class T>
class OneSystem final : public System {
 public:
  OneSystem(std::shared_ptr<const Packed<T>> weights, int threads)
      : structure_(std::move(weights), threads) {}

  void set_list(const NeighbourList &list) override { structure_.set_list(list); }
  void release() override { structure_.release(); }
  void set_exchange(limbeck::Exchange *exchange) override { structure_.set_exchange(exchange); }
  bool covers(const double *positions, const double *cell) const override {
    return structure_.covers(positions, cell);
  }
  void evaluate(const double *positions, const double *cell, Results &out) override {
    if constexpr (std::is_arithmetic<T>::value) {
      structure_.evaluate(positions, cell, out);
    } else {
      lift(positions, nullptr, cell);
      structure_.evaluate(lifted_.data(), lifted_cell_, out);
    }
  }
  void hessian_product(const double *positions, const double *cell, const double *direction,
                       double *product) override {
    if constexpr (std::is_arithmetic<T>::value) {
      throw std::logic_error("Hessian products need dual numbers");
    } else {
      lift(positions, direction, cell);
      structure_.evaluate(lifted_.data(), lifted_cell_, scratch_);
      for (int i = 0; i < structure_.total(); ++i)
        for (int c = 0; c < 3; ++c)
          product[3 * i + c] = -structure_.forces()[3 * structure_.place(i) + c].slope;
    }
  }
  void centroid_virial(const double *positions, const double *cell, double *virial) override {
    if constexpr (std::is_arithmetic<T>::value) {
      throw std::logic_error("centroid virials need dual numbers");
    } else {
      lift(positions, nullptr, cell);
      for (int axis = 0; axis < 3; ++axis) {
        structure_.set_axis(axis);
        structure_.evaluate(lifted_.data(), lifted_cell_, scratch_);
        for (int i = 0; i < structure_.total(); ++i)
          for (int c = 0; c < 3; ++c)
            virial[9 * std::size_t(i) + 3 * axis + c] =
                -structure_.forces()[3 * structure_.place(i) + c].slope;
      }
      structure_.set_axis(-1);
    }
  }
  std::size_t bytes() const override { return structure_.bytes(); }

 private:
  void lift(const double *positions, const double *direction, const double *cell) {
    const std::size_t count = 3 * std::size_t(structure_.total());
    lifted_.resize(count);
    for (std::size_t k = 0; k < count; ++k) lifted_[k] = Real<T>(positions[k]);
    if constexpr (!std::is_arithmetic<T>::value)
      for (std::size_t k = 0; direction && k < count; ++k) lifted_[k].slope = direction[k];
    for (int e = 0; e < 9; ++e) lifted_cell_[e] = Real<T>(cell[e]);
  }

  Structure<T> structure_;
  std::vector<Real<T>> lifted_;
  Real<T> lifted_cell_[9];
  Results scratch_;
};

template <class T>
class OneEngine final : public Engine {
 public:
  explicit OneEngine(const Model &model) : weights_(std::make_shared<const Packed<T>>(model)) {}
  std::unique_ptr<System> system(int threads) const override {
    return std::make_unique<OneSystem<T>>(weights_, threads);
  }

 private:
  std::shared_ptr<const Packed<T>> weights_;
};

std::unique_ptr<Engine> make_one_engine(const Model &model, Scalar scalar) {
  switch (scalar) {
    case Scalar::f32:
      return std::make_unique<OneEngine<float>>(model);
    case Scalar::f64:
      return std::make_unique<OneEngine<double>>(model);
    case Scalar::dual:
      return std::make_unique<OneEngine<Dual>>(model);
  }
  throw std::logic_error("unknown scalar");
}

}  // namespace LIMBECK_ISA
