// Which CPU targets the processor and the operating system support.
#pragma once

#include <string>

#include "base/targets.h"

namespace warploom {

// "" or the first feature that is missing. Checks what the system saves on a context switch too.
std::string cpu_lacks(Target target);

// Names of the features that matter to the library, space separated, e.g. "avx2 fma avx512f".
std::string cpu_feature_names();

}  // namespace warploom
