// FAULTY marks the line it stands on as one where a planted bug may be reported.
#pragma once

#include "simt/simt.h"

#if defined(WARPLOOM_SIMT_EMULATED)
void simt_test_mark(int line);
#define FAULTY simt_test_mark(__LINE__);
#else
#define FAULTY
#endif
