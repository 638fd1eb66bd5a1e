// Random numbers that are the same everywhere.
#pragma once

#include <cstdint>

namespace warploom::memory {

// The finalizer of SplitMix64: a bijection whose bits look unrelated.
inline uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() { return mixed(state_ += 0x9e3779b97f4a7c15u); }
  uint64_t below(uint64_t bound) { return next() % bound; }
  double uniform() { return double(next() >> 11) * 0x1p-53; }  // [0, 1)

 private:
  uint64_t state_;
};

}  // namespace warploom::memory
