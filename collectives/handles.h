// What the C interface's opaque types hold, and how its functions turn exceptions into statuses.
#pragma once

#include <new>

#include "base/status.h"
#include "collectives/error.h"
#include "collectives/schedule.h"
#include "collectives/topology.h"

struct wl_topology {
  warploom::collectives::Topology value;
};

struct wl_schedule {
  warploom::collectives::Schedule value;  // sealed
};

namespace warploom::collectives {

template <class Call>
wl_status guarded(const Call& call) {
  try {
    call();
    return WL_OK;
  } catch (const Invalid& error) {
    return fail_text(WL_INVALID, error.what());
  } catch (const std::bad_alloc&) {
    return fail(WL_MEMORY, "out of memory");
  }
}

template <class Params>
void check_size(const Params* params) {
  if (!params) invalid("params is NULL");
  if (params->struct_size != sizeof *params) {
    invalid("struct_size is ", params->struct_size, ": this library's is ", sizeof *params);
  }
}

// Arguments that must not be NULL, each with its name.
inline void check_given(const void* value, const char* name) {
  if (!value) invalid(name, " is NULL");
}

}  // namespace warploom::collectives
