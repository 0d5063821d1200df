#include "common/plan/designs.h"

#include <array>
#include <cstddef>
#include <numeric>

namespace sdp {
namespace {

bool IsPrime(int value) {
  if (value < 2) return false;
  for (int divisor = 2; divisor <= value / divisor; ++divisor) {
    if (value % divisor == 0) return false;
  }
  return true;
}

// True if `value` is base^m with m >= 2.
bool IsHigherPower(int value, int base) {
  int exponent = 0;
  for (; value % base == 0; value /= base) ++exponent;
  return value == 1 && exponent >= 2;
}

// Arithmetic of the field with `order` elements 0..order-1, order prime or 4.
class Field {
 public:
  explicit Field(int order) : order_(order) {}

  int Add(int a, int b) const { return order_ == 4 ? a ^ b : (a + b) % order_; }
  int Multiply(int a, int b) const {
    // GF(4) as polynomials over GF(2) modulo x^2 + x + 1; 2 stands for x.
    static constexpr std::array<std::array<int, 4>, 4> kProducts = {
        {{0, 0, 0, 0}, {0, 1, 2, 3}, {0, 2, 3, 1}, {0, 3, 1, 2}}};
    if (order_ != 4) return a * b % order_;
    return kProducts[static_cast<size_t>(a)][static_cast<size_t>(b)];
  }

 private:
  const int order_;
};

}  // namespace

std::optional<Design> Design::Find(int workers, int set_size) {
  if (set_size == 1) return Design(Form::kSingletons, workers, 1, 1);
  if (workers % set_size != 0 || workers == set_size) return std::nullopt;
  if (set_size == 2) return Design(Form::kTournament, workers, 2, workers - 1);
  const int order = workers / set_size;
  if ((IsPrime(order) || order == 4) && IsHigherPower(workers, order)) {
    return Design(Form::kHyperplanes, workers, set_size, (workers - 1) / (order - 1));
  }
  return std::nullopt;
}

std::vector<int> Design::Class(int index) const {
  switch (form_) {
    case Form::kTournament:
      return Round(index);
    case Form::kHyperplanes:
      return Hyperplanes(index);
    case Form::kSingletons:
      break;
  }
  std::vector<int> sets(static_cast<size_t>(workers_));
  std::iota(sets.begin(), sets.end(), 0);
  return sets;
}

// The circle method: the last worker stays in the middle, the others turn around it.
std::vector<int> Design::Round(int index) const {
  const int around = workers_ - 1;
  std::vector<int> sets(static_cast<size_t>(workers_));
  sets[static_cast<size_t>(around)] = 0;
  sets[static_cast<size_t>(index)] = 0;
  for (int distance = 1; distance <= around / 2; ++distance) {
    sets[static_cast<size_t>((index + distance) % around)] = distance;
    sets[static_cast<size_t>((index + around - distance) % around)] = distance;
  }
  return sets;
}

// A class of parallel hyperplanes is where a linear form takes equal values; forms that differ by a
// factor are the same class, so one coefficient is 1 and those after it are 0. A worker's number is
// its point, written with the highest digit first: class 0 is runs of consecutive workers.
std::vector<int> Design::Hyperplanes(int index) const {
  const int order = sets();
  std::vector<int> form;  // Coefficients, for the highest digit first.
  int choices = 1;        // Forms whose 1 is at the digit looked at.
  for (; index >= choices; choices *= order) {
    index -= choices;
    form.push_back(0);
  }
  for (int& coefficient : form) {
    coefficient = index % order;
    index /= order;
  }
  form.push_back(1);

  const Field field(order);
  std::vector<int> sets(static_cast<size_t>(workers_));
  for (int worker = 0; worker < workers_; ++worker) {
    int value = 0;
    int weight = set_size_;  // Of the digit looked at.
    for (const int coefficient : form) {
      const int digit = worker / weight % order;
      value = field.Add(value, field.Multiply(coefficient, digit));
      weight /= order;
    }
    sets[static_cast<size_t>(worker)] = value;
  }
  return sets;
}

}  // namespace sdp
