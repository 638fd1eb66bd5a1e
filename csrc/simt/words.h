// The words of the target at hand.
#pragma once

#include "simt/target.h"

#if defined(WARPLOOM_SIMT_EMULATED)
#include "simt/words_emulated.h"
#else
#include "simt/atomics_device.h"
#if defined(WARPLOOM_SIMT_CUDA)
#include "simt/words_cuda.h"
#else
#include "simt/words_hip.h"
#endif
#endif
