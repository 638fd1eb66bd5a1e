// How the collectives fail inside: an exception with the sentence that the C interface returns.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace warploom::collectives {

struct Invalid : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Parts>
std::string say(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

template <class... Parts>
[[noreturn]] void invalid(const Parts&... parts) {
  throw Invalid(say(parts...));
}

}  // namespace warploom::collectives
