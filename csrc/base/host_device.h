// Marks functions that hosts and kernels share.
#pragma once

#if defined(__CUDACC__) || defined(__HIPCC__)
#define WL_HOST_DEVICE __host__ __device__
#else
#define WL_HOST_DEVICE
#endif
