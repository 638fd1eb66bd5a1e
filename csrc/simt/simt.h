// The kernel language: include this, and nothing of a platform's own, in a kernel.
// docs/kernel_language.md lists every word with its contract.
#pragma once

#include "simt/atom.h"
#include "simt/machine.h"
#include "simt/number.h"
#include "simt/pointer.h"
#include "simt/signals.h"
#include "simt/words.h"
