// Signals between blocks, kernels and processes, and the word that tells the host what went wrong.
#pragma once

#include "simt/words.h"

namespace warploom::simt {

template <scope S = scope::device, class P>
SIMT_DEVICE auto ld_acquire(P p, int64_t i = 0, site at = site::current()) {
  return atomic_load<order::acquire, S>(p, i, at);
}
template <scope S = scope::device, class P>
SIMT_DEVICE auto ld_relaxed(P p, int64_t i = 0, site at = site::current()) {
  return atomic_load<order::relaxed, S>(p, i, at);
}
template <scope S = scope::device, class P, class T>
SIMT_DEVICE void st_release(P p, int64_t i, T value, site at = site::current()) {
  atomic_store<order::release, S>(p, i, value, at);
}
// Everything this thread did, and everything it knows others to have done, is seen by whoever
// acquires the sum. To signal for a whole block: sync_block first, then one thread adds.
template <scope S = scope::device, class P, class T>
SIMT_DEVICE void red_release_add(P p, int64_t i, T value, site at = site::current()) {
  atomic_add<order::release, S>(p, i, value, at);
}
template <scope S = scope::device, class P, class T>
SIMT_DEVICE void red_relaxed_add(P p, int64_t i, T value, site at = site::current()) {
  atomic_add<order::relaxed, S>(p, i, value, at);
}

// Sets the error word unless it is set already: the first error stays. Zero means none.
SIMT_DEVICE void set_error(global<int32_t> word, int32_t code, site at = site::current()) {
  atomic_cas<order::relaxed, scope::system>(word, 0, int32_t{0}, code, at);
}

}  // namespace warploom::simt
