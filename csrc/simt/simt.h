// The kernel language: include this, and nothing of a platform's own, in a kernel.
// docs/kernel_language.md lists every word with its contract.
#pragma once

#include "simt/machine.h"
#include "simt/number.h"
#include "simt/pointer.h"
#include "simt/target.h"

#if defined(WARPLOOM_SIMT_CUDA)
#include "simt/atomics_device.h"
#include "simt/words_cuda.h"
#elif defined(WARPLOOM_SIMT_HIP)
#include "simt/atomics_device.h"
#include "simt/words_hip.h"
#else
#include "simt/words_emulated.h"
#endif

#include "simt/atom.h"
#include "simt/signals.h"
