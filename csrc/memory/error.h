// How the planner fails inside: an exception with the sentence that the C interface returns.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace warploom::memory {

struct Invalid : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Parts>
[[noreturn]] void invalid(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw Invalid(text.str());
}

}  // namespace warploom::memory
