"""The fixed cases: shapes that kernels get wrong."""

from __future__ import annotations

import dataclasses

from warploom.mask import causal, window
from warploom.testing.cases import AttentionCase, DecodeCase

FORWARD = [
    AttentionCase(sq=1, d=8),
    AttentionCase(b=2, sq=1, sk=33, h=3, hk=1, d=24, mask=causal()),
    AttentionCase(sq=37, h=4, hk=2, d=40, mask=causal()),
    AttentionCase(b=2, sq=64, sk=128, h=2, d=64, mask=causal()),
    AttentionCase(sq=128, sk=64, h=2, d=64, mask=causal()),  # the first rows see nothing
    AttentionCase(b=2, sq=65, sk=129, h=6, hk=2, d=72, dv=40, mask=causal()),
    AttentionCase(sq=130, sk=257, h=2, d=128),
    AttentionCase(sq=300, h=1, d=64),
    AttentionCase(sq=257, h=3, hk=1, d=64, mask=window(16, 0)),
    AttentionCase(sq=100, sk=90, h=2, d=32, mask=window(5, 7)),
    AttentionCase(sq=90, sk=300, h=1, d=96, mask=window(100, 20)),
    AttentionCase(sq=50, h=2, d=16, mask=window(0, 0)),
    AttentionCase(sq=20, sk=30, h=2, d=16, mask=window(None, 3)),
    AttentionCase(sq=30, sk=20, h=2, d=16, mask=window(3, None)),
    AttentionCase(sq=530, sk=1100, h=2, hk=1, d=24, mask=window(300, 40)),  # several ranges
    AttentionCase(sq=33, h=2, d=256),
    AttentionCase(sq=40, sk=35, h=2, d=8, dv=256, mask=causal()),
    AttentionCase(sq=40, sk=35, h=2, d=256, dv=8),
    AttentionCase(b=2, sq=19, sk=23, h=5, d=17, dv=33),
    AttentionCase(sq=7, h=3, d=1),
    AttentionCase(sq=70, h=2, d=64, softcap=1.5, mask=causal()),
    AttentionCase(sq=70, h=2, d=48, softcap=8.0, scale=0.5),
    AttentionCase(sq=20, h=2, d=32, scale=0.0),
    AttentionCase(sq=20, h=2, d=32, scale=-0.3, mask=causal()),
    AttentionCase(b=9, sq=3, h=7, d=12, mask=causal()),
    AttentionCase(lengths_q=(17, 0, 1, 65), h=6, hk=2, d=72, mask=causal()),
    AttentionCase(lengths_q=(5, 33, 2, 40), lengths_k=(7, 0, 64, 40), h=2, d=64),
    AttentionCase(
        lengths_q=(130, 3), lengths_k=(70, 90), h=3, hk=1, d=80, dv=64, mask=window(9, 0)
    ),
    AttentionCase(lengths_q=(21, 90), h=2, d=128, mask=causal(), softcap=2.0),
    # more than one block of rows and of keys, none of them whole
    AttentionCase(sq=601, sk=777, h=2, hk=1, d=24, mask=causal()),
    AttentionCase(sq=333, sk=1301, h=3, hk=1, d=16, dv=9, mask=window(301, 1)),
]

EMPTY = [
    AttentionCase(b=0, sq=5, h=2, d=8),
    AttentionCase(sq=0, sk=5, h=2, d=8),
    AttentionCase(sq=5, sk=0, h=2, d=8, mask=causal()),
    AttentionCase(sq=5, h=0, d=8),
    AttentionCase(sq=5, h=2, d=8, dv=0),
    AttentionCase(sq=5, h=2, d=0, dv=8),
    AttentionCase(lengths_q=(), h=2, d=8),
    AttentionCase(lengths_q=(0, 0), lengths_k=(3, 0), h=2, d=8),
    AttentionCase(lengths_q=(2, 3), lengths_k=(0, 0), h=2, d=8),
]

DECODE = [
    DecodeCase(lengths=(1,), h=1, d=8),
    DecodeCase(lengths=(17, 1, 300), h=4, hk=1, d=64),
    DecodeCase(lengths=(40, 33), s=4, h=6, hk=2, d=72, dv=40, capacity=64),
    DecodeCase(lengths=(129, 500, 64), h=8, hk=2, d=128, page=16),
    DecodeCase(lengths=(5, 31), s=3, h=3, d=40, page=7),
    DecodeCase(lengths=(200,), s=5, h=2, d=96, mask=window(50, 0), page=64),
    DecodeCase(lengths=(90,), s=2, h=2, d=32, mask=window(None, None), softcap=2.0),
    DecodeCase(lengths=(33, 70), h=4, hk=2, d=256, softcap=10.0, page=1),
    DecodeCase(lengths=(700,), h=2, hk=1, d=17, dv=33, scale=0.5),
    DecodeCase(lengths=(60,) * 7, h=5, d=64, page=32),
]

# Small enough for the emulator, and one tile's edge each.
EMULATED_FORWARD = [
    AttentionCase(sq=1, sk=5, d=64),
    AttentionCase(sq=17, sk=33, h=2, hk=1, d=64, mask=causal()),
    AttentionCase(sq=65, sk=40, h=1, d=40, dv=24, mask=causal()),
    AttentionCase(sq=33, sk=130, h=1, d=128, mask=window(20, 3), softcap=2.0),
    AttentionCase(lengths_q=(3, 0, 20), lengths_k=(9, 4, 20), h=2, d=64, mask=causal()),
]
EMULATED_DECODE = [
    DecodeCase(lengths=(5, 40), h=4, hk=1, d=64),
    DecodeCase(lengths=(33, 7), s=2, h=2, d=40, dv=24, page=16, softcap=2.0),
    DecodeCase(lengths=(300,), h=2, hk=2, d=128, page=64, mask=window(100, 0)),
]

# For devices, which take these in no time.
LARGE_FORWARD = [
    AttentionCase(sq=4096, h=4, hk=2, d=128, mask=causal()),
    AttentionCase(sq=2048, h=4, d=64),
    AttentionCase(b=2, sq=1000, sk=3001, h=3, hk=1, d=72, mask=window(700, 10)),
    AttentionCase(b=3, sq=1024, sk=1500, h=2, d=256, mask=causal(), softcap=5.0),
    AttentionCase(lengths_q=(1700, 1, 0, 2300), h=4, hk=2, d=128, mask=causal()),
]
LARGE_DECODE = [
    DecodeCase(lengths=(8192, 4095, 1), h=32, hk=8, d=128, page=64),
    DecodeCase(lengths=(3000, 2999), s=4, h=16, hk=1, d=64, capacity=4096),
    DecodeCase(lengths=(5000,), h=4, d=256, page=16, mask=window(3000, 0)),
]


def in_dtype(cases, dtype: str):
    return [dataclasses.replace(case, dtype=dtype) for case in cases]
